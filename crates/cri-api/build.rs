//! Compiles the interfaces in `proto/` without protoc, and gives their messages the JSON that crictl
//! prints.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};
use tonic_prost_build::Builder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/runtime.proto", "proto/slipway.proto"], ["proto"])?;
    // A call that a server does not have is answered with UNIMPLEMENTED, as CRI's clients expect.
    let mut builder = tonic_prost_build::configure()
        .generate_default_stubs(true)
        .extern_path(".runtime.v1.Metric", "crate::metric::Metric");
    for file in &descriptors.file {
        let package = format!(".{}", file.package());
        for message in &file.message_type {
            builder = message_to_json(builder, &package, message);
        }
        for enumeration in &file.enum_type {
            builder = enumeration_to_json(builder, &package, enumeration);
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

const SERIALIZE: &str = "#[derive(::serde::Serialize)]";

fn message_to_json(mut builder: Builder, scope: &str, message: &DescriptorProto) -> Builder {
    let path = format!("{scope}.{}", message.name());
    builder = builder.message_attribute(&path, SERIALIZE);
    for field in &message.field {
        let is_map = message.nested_type.iter().any(|nested| {
            nested
                .options
                .as_ref()
                .is_some_and(prost_types::MessageOptions::map_entry)
                && field.type_name() == format!("{path}.{}", nested.name())
        });
        let mut attributes = vec![format!("rename = {:?}", field.json_name())];
        attributes.extend(json_encoding(field, is_map));
        builder = builder.field_attribute(
            format!("{path}.{}", field.name()),
            format!("#[serde({})]", attributes.join(", ")),
        );
    }
    for enumeration in &message.enum_type {
        builder = enumeration_to_json(builder, &path, enumeration);
    }
    builder
}

/// The attribute for a field whose Rust type does not serialize by itself as protojson has it.
fn json_encoding(field: &FieldDescriptorProto, is_map: bool) -> Option<String> {
    let repeated = field.label() == Label::Repeated;
    let with = |function: &str| Some(format!("serialize_with = \"crate::json::{function}\""));
    match field.r#type() {
        Type::Message if is_map => with("sorted_map"),
        Type::Message if !repeated => Some("skip_serializing_if = \"Option::is_none\"".to_string()),
        Type::Int64 | Type::Uint64 if repeated => with("decimal_strings"),
        Type::Int64 | Type::Uint64 => with("decimal_string"),
        Type::Enum => with(&format!(
            "enumeration::<{}, _>",
            rust_path(field.type_name())
        )),
        Type::Bytes => with("base64"),
        _ => None,
    }
}

fn enumeration_to_json(
    mut builder: Builder,
    scope: &str,
    enumeration: &EnumDescriptorProto,
) -> Builder {
    let path = format!("{scope}.{}", enumeration.name());
    builder = builder.enum_attribute(&path, SERIALIZE);
    for value in &enumeration.value {
        builder = builder.field_attribute(
            format!("{path}.{}", value.name()),
            format!("#[serde(rename = {:?})]", value.name()),
        );
    }
    builder
}

/// Where prost puts `.runtime.v1.SecurityProfile.ProfileType`: in a module with the snake-case name
/// of the message around it.
fn rust_path(type_name: &str) -> String {
    let (package, inner) = match type_name.strip_prefix(".slipway.v1.") {
        Some(inner) => ("slipway", inner),
        None => ("v1", type_name.trim_start_matches(".runtime.v1.")),
    };
    match inner.split_once('.') {
        None => format!("crate::{package}::{inner}"),
        Some((message, name)) => {
            let mut module = String::new();
            for letter in message.chars() {
                if letter.is_uppercase() && !module.is_empty() {
                    module.push('_');
                }
                module.extend(letter.to_lowercase());
            }
            format!("crate::{package}::{module}::{name}")
        }
    }
}
