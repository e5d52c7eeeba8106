//! `slipway images` and `rmi`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use slipway_cri_api::v1::{Image, ImageSpec, ListImagesRequest, RemoveImageRequest};

use super::connection::Client;
use super::containers::for_each;
use super::output::{ListArgs, print_line};
use super::resolve;
use super::table::Table;

/// What `slipway images` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway images
  slipway images --digests
  slipway images -o json | jq -r '.images[].repoTags[]'")]
pub(crate) struct ImagesArgs {
    /// With the digests of their manifests
    #[arg(long)]
    digests: bool,

    #[command(flatten)]
    list: ListArgs,
}

impl ImagesArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let request = client.request(ListImagesRequest::default());
        let response = client
            .images()
            .list_images(request)
            .await
            .context("list images")?;
        let mut response = response.into_inner();
        response
            .images
            .sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        let ids = response.images.iter().map(|image| image.id.as_str());
        self.list
            .print(&response, ids, || self.table(&response.images))?;
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, images: &[Image]) -> Table {
        let mut table = if self.digests {
            Table::new(["IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"])
        } else {
            Table::new(["IMAGE", "TAG", "IMAGE ID", "SIZE"])
        };
        for image in images {
            let id = self.list.id(&image.id);
            let size = human_size(image.size);
            for name in names(image) {
                if self.digests {
                    let digest = if self.list.id(name.digest).is_empty() {
                        "<none>"
                    } else {
                        self.list.id(name.digest)
                    };
                    let row = [name.repository, name.tag, digest, id, &size];
                    table.push(row.map(Into::into));
                } else {
                    table.push([name.repository, name.tag, id, &size].map(Into::into));
                }
            }
        }
        table
    }
}

/// A name of an image, in the parts that the table shows.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    repository: &'a str,
    tag: &'a str,
    digest: &'a str,
}

const NONE: &str = "<none>";

/// An image's tags, or its repository if no tag is left.
fn names(image: &Image) -> Vec<Name<'_>> {
    let digests = image
        .repo_digests
        .iter()
        .filter_map(|reference| reference.split_once('@'));
    let digest_of = |repository: &str| {
        digests
            .clone()
            .find(|(other, _)| *other == repository)
            .map_or("", |(_, digest)| digest)
    };
    if image.repo_tags.is_empty() {
        let (repository, digest) = digests.clone().next().unwrap_or((NONE, ""));
        return vec![Name {
            repository,
            tag: NONE,
            digest,
        }];
    }
    let name = |reference| {
        let (repository, tag) = split_tag(reference);
        Name {
            repository,
            tag,
            digest: digest_of(repository),
        }
    };
    image
        .repo_tags
        .iter()
        .map(|tag| name(tag.as_str()))
        .collect()
}

/// The colon of a registry's port is none of a tag: a tag has no slash after it.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, NONE),
    }
}

/// Bytes in decimal units with three digits, as crictl shows an image's size.
pub(super) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut size = bytes as f64;
    let mut unit = 0;
    // What rounds to four digits belongs to the next unit.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        _ if unit == 0 => 0,
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    format!("{size:.decimals$}{}", UNITS[unit])
}

/// What `slipway rmi` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway rmi registry.example.com/app:1.2
  slipway images -q | xargs slipway rmi")]
pub(crate) struct RmiArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl RmiArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        for_each("rmi", &self.images, async |query| {
            let all = client.all_images().await?;
            let image = resolve::find(query, &all)?;
            // A name removes what has that name, an ID the image under all of its names.
            let is_name = resolve::Named::is_named(image, query);
            let reference = if is_name { query } else { &image.id };
            let request = client.request(RemoveImageRequest {
                image: Some(ImageSpec {
                    image: reference.into(),
                    ..Default::default()
                }),
            });
            client.images().remove_image(request).await?;
            print_line(reference)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (2_166_802, "2.17MB"),
            (9_995_000, "10.0MB"),
            (55_500_000, "55.5MB"),
            (999_600_000, "1.00GB"),
            (205_000_000, "205MB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(human_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(
            split_tag("localhost:5000/a/b:1"),
            ("localhost:5000/a/b", "1")
        );
        assert_eq!(
            split_tag("localhost:5000/a/b"),
            ("localhost:5000/a/b", NONE)
        );
        assert_eq!(split_tag("busybox"), ("busybox", NONE));
    }

    #[test]
    fn an_image_without_tags_still_has_a_row() {
        let mut image = Image::default();
        let nameless = Name {
            repository: NONE,
            tag: NONE,
            digest: "",
        };
        assert_eq!(names(&image), [nameless]);
        image.repo_digests = vec!["example.com/a@sha256:1".into()];
        let by_digest = Name {
            repository: "example.com/a",
            tag: NONE,
            digest: "sha256:1",
        };
        assert_eq!(names(&image), [by_digest]);
        image.repo_tags = vec!["example.com/a:1".into(), "example.com/b:2".into()];
        assert_eq!(
            names(&image),
            [
                Name {
                    repository: "example.com/a",
                    tag: "1",
                    digest: "sha256:1"
                },
                Name {
                    repository: "example.com/b",
                    tag: "2",
                    digest: ""
                },
            ]
        );
    }
}
