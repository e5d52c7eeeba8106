//! The template language of CNI configurations: what the templates that exist use of Go's
//! `text/template`.
//!
//! Understood are the fields of the data (`{{.PodCIDR}}`, also `$.PodCIDR`), `{{range}}` over a
//! list with none, one or two variables, `{{if}}`, `{{else}}`, `{{else if}}`, `{{end}}`, `.` and
//! variables, `index LIST NUMBER`, `len LIST`, comments, and `{{-` and `-}}`, which take the white
//! space beside them. Anything else is an error that names the line, not silence.

mod parse;

use std::fmt;

use parse::{Block, Expression};

/// No configuration comes near this size, in bytes.
const LARGEST: usize = 1 << 20;

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Block>);

/// What is wrong with a template, or with what it asks of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) line: usize,
    pub(crate) reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Something that a template can show or look into.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(usize),
    List(&'a [String]),
    /// Named values: what a template is given.
    Fields(&'a [(&'static str, Value<'a>)]),
}

impl Value<'_> {
    /// What `{{if}}` asks: whether there is something in it.
    fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::List(list) => !list.is_empty(),
            Self::Fields(_) => true,
        }
    }
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, Complaint> {
        parse::blocks(text).map(Self)
    }

    /// The template with `fields` filled in.
    pub(crate) fn render(&self, fields: &[(&'static str, Value<'_>)]) -> Result<String, Complaint> {
        let mut rendering = Rendering {
            root: Value::Fields(fields),
            variables: Vec::new(),
            text: String::new(),
        };
        rendering.blocks(&self.0, &Value::Fields(fields))?;
        Ok(rendering.text)
    }
}

struct Rendering<'t, 'v> {
    root: Value<'v>,
    /// The innermost last.
    variables: Vec<(&'t str, Value<'v>)>,
    text: String,
}

impl<'t, 'v> Rendering<'t, 'v> {
    fn blocks(&mut self, blocks: &'t [Block], dot: &Value<'v>) -> Result<(), Complaint> {
        for block in blocks {
            self.block(block, dot)?;
        }
        Ok(())
    }

    fn block(&mut self, block: &'t Block, dot: &Value<'v>) -> Result<(), Complaint> {
        match block {
            Block::Text(text) => self.text.push_str(text),
            Block::Show { what, line } => match self.value(what, dot, *line)? {
                Value::Text(text) => self.text.push_str(text),
                Value::Number(number) => self.text.push_str(&number.to_string()),
                Value::List(_) | Value::Fields(_) => {
                    return Err(complaint(
                        *line,
                        "a list is shown item by item, with {{range}}",
                    ));
                }
            },
            Block::If {
                branches,
                otherwise,
            } => {
                for (condition, line, body) in branches {
                    if self.value(condition, dot, *line)?.is_true() {
                        return self.blocks(body, dot);
                    }
                }
                self.blocks(otherwise, dot)?;
            }
            Block::Range {
                over,
                line,
                variables,
                body,
                otherwise,
            } => {
                let Value::List(items) = self.value(over, dot, *line)? else {
                    return Err(complaint(*line, "{{range}} needs a list"));
                };
                if items.is_empty() {
                    return self.blocks(otherwise, dot);
                }
                for (number, item) in items.iter().enumerate() {
                    let outer = self.variables.len();
                    let item = Value::Text(item);
                    match variables.as_slice() {
                        [] => {}
                        [one] => self.variables.push((one, item.clone())),
                        [index, one, ..] => {
                            self.variables.push((index, Value::Number(number)));
                            self.variables.push((one, item.clone()));
                        }
                    }
                    self.blocks(body, &item)?;
                    self.variables.truncate(outer);
                    if self.text.len() > LARGEST {
                        return Err(complaint(*line, "it becomes larger than 1 MiB"));
                    }
                }
            }
        }
        Ok(())
    }

    fn value(
        &self,
        expression: &Expression,
        dot: &Value<'v>,
        line: usize,
    ) -> Result<Value<'v>, Complaint> {
        match expression {
            Expression::Dot => Ok(dot.clone()),
            Expression::Root => Ok(self.root.clone()),
            Expression::Number(number) => Ok(Value::Number(*number)),
            Expression::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| complaint(line, format!("there is no variable ${name} here"))),
            Expression::Field(of, name) => match self.value(of, dot, line)? {
                Value::Fields(fields) => field(fields, name, line),
                _ => Err(complaint(
                    line,
                    format!(
                        ".{name}: inside of {{{{range}}}} the data is called $, as in $.{name}"
                    ),
                )),
            },
            Expression::Length(of) => match self.value(of, dot, line)? {
                Value::List(list) => Ok(Value::Number(list.len())),
                Value::Text(text) => Ok(Value::Number(text.len())),
                _ => Err(complaint(line, "len needs a list or a text")),
            },
            Expression::Index(of, number) => {
                let (Value::List(list), Value::Number(number)) =
                    (self.value(of, dot, line)?, self.value(number, dot, line)?)
                else {
                    return Err(complaint(line, "index needs a list and a number"));
                };
                list.get(number)
                    .map(|item| Value::Text(item))
                    .ok_or_else(|| {
                        let count = list.len();
                        complaint(line, format!("index {number} of a list with {count} items"))
                    })
            }
        }
    }
}

fn field<'v>(
    fields: &[(&'static str, Value<'v>)],
    name: &str,
    line: usize,
) -> Result<Value<'v>, Complaint> {
    let found = fields.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let known: Vec<_> = fields
            .iter()
            .map(|(known, _)| format!(".{known}"))
            .collect();
        complaint(
            line,
            format!("there is no .{name}, only {}", known.join(", ")),
        )
    })
}

fn complaint(line: usize, reason: impl Into<String>) -> Complaint {
    Complaint {
        line,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str) -> Result<String, Complaint> {
        let list = ["a".to_owned(), "b".to_owned()];
        Template::parse(template)?.render(&[
            ("One", Value::Text("one")),
            ("Empty", Value::Text("")),
            ("List", Value::List(&list)),
            ("None", Value::List(&[])),
        ])
    }

    #[test]
    fn what_templates_use_is_filled_in() {
        for (template, expected) in [
            ("", ""),
            ("no action", "no action"),
            ("<{{.One}}>", "<one>"),
            ("{{ .One }}{{$.One}}", "oneone"),
            ("{{range .List}}({{.}}){{end}}", "(a)(b)"),
            ("{{range $r := .List}}({{$r}}){{end}}", "(a)(b)"),
            (
                "{{range $i, $r := .List}}{{if $i}}, {{end}}{{$i}}{{$r}}{{end}}",
                "0a, 1b",
            ),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{if .Empty}}x{{else if .None}}y{{else}}z{{end}}", "z"),
            ("{{if .List}}x{{else}}y{{end}}", "x"),
            ("{{index .List 1}}{{len .List}}", "b2"),
            ("{{range .List}}{{$.One}}{{end}}", "oneone"),
            ("a {{- .One -}} \n b", "aoneb"),
            ("a{{/* {{ not }} shown */}}b", "ab"),
            ("a\n{{- /* c */ -}}\nb", "ab"),
            ("{ \"a\": {\"b\": 1}}", "{ \"a\": {\"b\": 1}}"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (template, line, words) in [
            ("\n{{.Two}}", 2, ".Two"),
            ("{{.One", 1, "}}"),
            ("\n\n{{if .One}}\nx", 3, "{{end}}"),
            ("{{end}}", 1, "{{end}}"),
            ("{{else}}", 1, "{{else}}"),
            ("{{range .One}}{{end}}", 1, "list"),
            ("{{.List}}", 1, "{{range}}"),
            ("{{printf \"%s\" .One}}", 1, "printf"),
            ("{{.One | html}}", 1, "|"),
            ("{{$x}}", 1, "$x"),
            ("{{range .List}}{{.One}}{{end}}", 1, "$.One"),
            ("{{index .List 2}}", 1, "2 items"),
            ("{{}}", 1, "nothing"),
            ("{{range $a, $b, $c := .List}}{{end}}", 1, "variable"),
        ] {
            let complaint = render(template).expect_err(template);
            assert_eq!(complaint.line, line, "{template}: {complaint}");
            assert!(complaint.reason.contains(words), "{template}: {complaint}");
        }
    }

    #[test]
    fn depth_and_size_have_an_end() {
        let deep = |depth: usize| "{{range $.List}}".repeat(depth) + "x" + &"{{end}}".repeat(depth);
        assert_eq!(render(&deep(3)).as_deref(), Ok("xxxxxxxx"));
        assert!(render(&deep(30)).unwrap_err().reason.contains("1 MiB"));
        let too_deep = render(&deep(100_000)).unwrap_err();
        assert!(too_deep.reason.contains("nested"), "{too_deep}");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(\\{\\{|\\}\\}|range|if|else|end|index|len|\\$i|:=|,|\\.One|\\.List|-| |\n|.){0,20}") {
            let _ = render(&text);
        }

        #[test]
        fn text_without_actions_is_kept(text in "[^{]{0,80}") {
            prop_assert_eq!(render(&text), Ok(text));
        }
    }
}
