//! From text to what a template does.

use super::{Complaint, complaint};

/// Deeper than this nobody nests on purpose.
const DEEPEST: usize = 32;

/// A part of a template. The lines are those of the action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    Text(String),
    Show {
        what: Expression,
        line: usize,
    },
    If {
        branches: Vec<(Expression, usize, Vec<Block>)>,
        otherwise: Vec<Block>,
    },
    Range {
        over: Expression,
        line: usize,
        variables: Vec<String>,
        body: Vec<Block>,
        otherwise: Vec<Block>,
    },
}

/// Something with a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Dot,
    /// `$`
    Root,
    Number(usize),
    Variable(String),
    Field(Box<Expression>, String),
    Length(Box<Expression>),
    Index(Box<Expression>, Box<Expression>),
}

pub(super) fn blocks(text: &str) -> Result<Vec<Block>, Complaint> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: tokens.into_iter(),
        depth: 0,
    };
    let (blocks, end) = parser.blocks()?;
    match end {
        None => Ok(blocks),
        Some(end) => Err(complaint(
            end.line,
            format!("{{{{{}}}}} closes nothing", end.text),
        )),
    }
}

/// Text, or what is between `{{` and `}}`.
enum Token<'t> {
    Text(&'t str),
    Action(Action<'t>),
}

#[derive(Clone, Copy)]
struct Action<'t> {
    text: &'t str,
    line: usize,
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Complaint> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let before = if trim { before.trim_start() } else { before };
        let Some(after) = after else {
            tokens.push(Token::Text(before));
            return Ok(tokens);
        };
        let line = 1 + text[..text.len() - after.len()].matches('\n').count();
        let trims_before = after.starts_with("- ") || after.starts_with("-\n");
        tokens.push(Token::Text(if trims_before {
            before.trim_end()
        } else {
            before
        }));
        let body = if trims_before { &after[1..] } else { after };
        let closed = match body.trim_start().strip_prefix("/*") {
            // A comment may hold what would end an action.
            Some(comment) => comment.split_once("*/").and_then(|(_, end)| {
                let (between, after) = end.split_once("}}")?;
                matches!(between.trim(), "" | "-").then_some((between, after))
            }),
            None => body.split_once("}}"),
        };
        let (action, after) =
            closed.ok_or_else(|| complaint(line, "an action is not closed with }}"))?;
        trim = action.ends_with(" -") || action == "-" && body.trim_start().starts_with("/*");
        if !body.trim_start().starts_with("/*") {
            let text = if trim {
                &action[..action.len() - 1]
            } else {
                action
            }
            .trim();
            tokens.push(Token::Action(Action { text, line }));
        }
        rest = after;
    }
}

struct Parser<'t> {
    tokens: std::vec::IntoIter<Token<'t>>,
    depth: usize,
}

impl<'t> Parser<'t> {
    /// Blocks up to an `{{end}}` or `{{else}}`, which is answered too, or to the end.
    fn blocks(&mut self) -> Result<(Vec<Block>, Option<Action<'t>>), Complaint> {
        let mut blocks = Vec::new();
        while let Some(token) = self.tokens.next() {
            let action = match token {
                Token::Text("") => continue,
                Token::Text(text) => {
                    blocks.push(Block::Text(text.to_owned()));
                    continue;
                }
                Token::Action(action) => action,
            };
            let (word, rest) = first_word(action.text);
            blocks.push(match word {
                "end" | "else" => return Ok((blocks, Some(action))),
                "if" => self.condition(rest, action.line)?,
                "range" => self.range(rest, action.line)?,
                _ => Block::Show {
                    what: expression(action.text, action.line)?,
                    line: action.line,
                },
            });
        }
        Ok((blocks, None))
    }

    /// The inside of `{{if}}` or `{{range}}`.
    fn inside(&mut self, line: usize) -> Result<(Vec<Block>, Action<'t>), Complaint> {
        if self.depth == DEEPEST {
            return Err(complaint(line, "it is nested too deeply"));
        }
        self.depth += 1;
        let (blocks, end) = self.blocks()?;
        self.depth -= 1;
        let end = end.ok_or_else(|| complaint(line, "there is no {{end}} for it"))?;
        Ok((blocks, end))
    }

    fn condition(&mut self, condition: &str, line: usize) -> Result<Block, Complaint> {
        let mut branches = Vec::new();
        let mut next = (expression(condition, line)?, line);
        loop {
            let (body, end) = self.inside(line)?;
            branches.push((next.0, next.1, body));
            let (word, rest) = first_word(end.text);
            let (second, condition) = first_word(rest);
            if (word, second) != ("else", "if") {
                let otherwise = self.otherwise(end)?;
                return Ok(Block::If {
                    branches,
                    otherwise,
                });
            }
            next = (expression(condition, end.line)?, end.line);
        }
    }

    fn range(&mut self, range: &str, line: usize) -> Result<Block, Complaint> {
        let (variables, over) = match range.split_once(":=") {
            None => (Vec::new(), range),
            Some((names, over)) => (variables(names, line)?, over),
        };
        let over = expression(over, line)?;
        let (body, end) = self.inside(line)?;
        Ok(Block::Range {
            over,
            line,
            variables,
            body,
            otherwise: self.otherwise(end)?,
        })
    }

    /// What follows the first part of an `{{if}}` or `{{range}}` that `end` closes.
    fn otherwise(&mut self, end: Action<'t>) -> Result<Vec<Block>, Complaint> {
        match end.text {
            "end" => Ok(Vec::new()),
            "else" => match self.inside(end.line)? {
                (blocks, Action { text: "end", .. }) => Ok(blocks),
                (_, again) => Err(complaint(again.line, "{{end}} is expected here")),
            },
            other => Err(complaint(
                end.line,
                format!("{{{{{other}}}}} is not understood"),
            )),
        }
    }
}

fn variables(names: &str, line: usize) -> Result<Vec<String>, Complaint> {
    let names: Option<Vec<_>> = names
        .split(',')
        .map(|name| variable(name.trim()).map(str::to_owned))
        .collect();
    names.filter(|names| names.len() <= 2).ok_or_else(|| {
        let allowed = "{{range}} has one variable for the item, or two for its number and the item";
        complaint(line, allowed)
    })
}

/// The name in `$name`.
fn variable(word: &str) -> Option<&str> {
    word.strip_prefix('$').filter(|name| is_name(name))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim()))
}

fn expression(text: &str, line: usize) -> Result<Expression, Complaint> {
    let words: Vec<_> = text.split_whitespace().collect();
    let operand = |word: &str| operand(word, line).map(Box::new);
    match words.as_slice() {
        [] => Err(complaint(line, "there is nothing between {{ and }}")),
        [one] => self::operand(one, line),
        ["len", of] => Ok(Expression::Length(operand(of)?)),
        ["index", of, number] => Ok(Expression::Index(operand(of)?, operand(number)?)),
        _ => Err(complaint(
            line,
            format!(
                "{{{{{text}}}}} is not understood: beside fields there are range, if, else, end, \
                 index and len"
            ),
        )),
    }
}

fn operand(word: &str, line: usize) -> Result<Expression, Complaint> {
    if let Ok(number) = word.parse() {
        return Ok(Expression::Number(number));
    }
    let (start, fields) = word.split_once('.').unwrap_or((word, ""));
    let has_dot = word.contains('.');
    let start = match start {
        "" if has_dot => Some(Expression::Dot),
        "$" => Some(Expression::Root),
        other => variable(other).map(|name| Expression::Variable(name.to_owned())),
    };
    let fields = if has_dot { fields } else { "" };
    start
        .and_then(|start| match fields {
            "" if word.len() > 1 && word.ends_with('.') => None,
            "" => Some(start),
            name => is_name(name).then(|| Expression::Field(Box::new(start), name.to_owned())),
        })
        .ok_or_else(|| {
            complaint(
                line,
                format!("{word:?} is not understood: a field is written .Name, a variable $name"),
            )
        })
}
