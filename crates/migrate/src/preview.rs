//! `slipway migrate plan`: a plan beside the node and the cluster as they are, so that each step is
//! shown with what it would change there. They are looked at by the calls, and what would become of
//! them is worked out by the code, that carry a move out. Nothing is changed.

mod shown;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::apply::{self, Before, Subject};
use crate::control_plane::{ControlPlane, SYSTEM, spoken};
use crate::host::Services;
use crate::plan::{Plan, Step, difference};
use crate::secrets;

/// How long systemd and the API server should have to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Whoever gives up by itself after that says why.
const LONGEST: Duration = Duration::from_secs(6);

/// A plan, with what was found where it would change something beside files.
#[derive(Debug, Clone)]
pub struct Preview {
    plan: Plan,
    node: Option<String>,
    /// One for each step.
    outlooks: Vec<Option<Outlook>>,
}

/// What is known of a unit or of an object that a step would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// It was looked at.
    Seen(Box<Change>),
    /// It could not be looked at; why not.
    Unseen(String),
    /// The step would fail; why.
    Fails(String),
}

/// What there would be before a step, after those that come first, and what it would make of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    name: String,
    /// As a journal would have it.
    pub before: Before,
    /// What would be found there next.
    pub after: Before,
}

impl Preview {
    /// Looks at each unit and at each object that a plan's steps change, at all of them at once. Where
    /// nobody can be asked, the reason stands in place of `services` or `control_plane`. `node` is the
    /// Node's name, where it is known.
    pub async fn look<S: Services, C: ControlPlane>(
        plan: Plan,
        node: Option<String>,
        services: Result<&S, String>,
        control_plane: Result<&C, String>,
    ) -> Self {
        let mut subjects = Vec::new();
        for subject in plan.steps.iter().filter_map(Subject::of) {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        let (services, control_plane) = (&services, &control_plane);
        let kubelet = plan.kubelet;
        let looks = subjects.iter().map(|subject| async move {
            match subject {
                Subject::Unit(name) => {
                    let services = services.clone()?;
                    let unit = within(services.unit(name)).await?;
                    Ok(Before::Unit(unit))
                }
                Subject::Field(field) => within(field.look(control_plane.clone()?, kubelet)).await,
            }
        });
        let found: Vec<Result<Before, String>> = join_all(looks).await;
        let mut now = found.clone();
        let outlooks = plan.steps.iter().map(|step| {
            let subject = Subject::of(step)?;
            let place = subjects.iter().position(|one| *one == subject)?;
            let (first, before) = match (&found[place], &now[place]) {
                (Ok(first), Ok(before)) => (first, before.clone()),
                (Err(why), _) | (_, Err(why)) => {
                    return Some(Outlook::Unseen(secrets::hidden(why)));
                }
            };
            let after = match apply::after(step, &before, first) {
                Ok(after) => after,
                Err(why) => return Some(Outlook::Fails(secrets::hidden(&why.to_string()))),
            };
            now[place] = Ok(after.clone());
            Some(Outlook::Seen(Box::new(Change {
                name: subject.name(node.as_deref()),
                before,
                after,
            })))
        });
        let outlooks = outlooks.collect();
        Self {
            plan,
            node,
            outlooks,
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Each step, with what is known of what it would change where that is no file.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, Option<&Outlook>)> {
        let outlooks = self.outlooks.iter().map(Option::as_ref);
        self.plan.steps.iter().zip(outlooks)
    }

    /// What could not be looked at and why not, with the numbers of its steps, the first being 1.
    pub fn unseen(&self) -> Vec<(String, &str, Vec<usize>)> {
        let mut unseen: Vec<(String, &str, Vec<usize>)> = Vec::new();
        for (number, (step, outlook)) in (1..).zip(self.steps()) {
            let (Some(Outlook::Unseen(why)), Some(subject)) = (outlook, Subject::of(step)) else {
                continue;
            };
            let name = subject.name(self.node.as_deref());
            match unseen.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, _, steps)) => steps.push(number),
                None => unseen.push((name, why, vec![number])),
            }
        }
        unseen
    }
}

/// What is looked at, or why it cannot be.
async fn within<T>(
    look: impl Future<Output = Result<T, crate::failure::Failure>>,
) -> Result<T, String> {
    let began = Instant::now();
    let why = match timeout(LONGEST, look).await {
        Ok(Ok(seen)) => return Ok(seen),
        Ok(Err(why)) => why.to_string(),
        Err(_) => "no answer".to_string(),
    };
    if began.elapsed() < PATIENCE {
        return Err(why);
    }
    Err(format!("{why} (given up after {})", spoken(PATIENCE)))
}

impl Change {
    /// Whether the step would change nothing of it.
    pub fn is_none(&self) -> bool {
        self.before == self.after
    }

    /// As it is, in one line.
    pub fn found(&self) -> String {
        match &self.before {
            Before::Configurations(found) if found.values().all(Option::is_none) => format!(
                "{}, and what makes new nodes has to set this for them",
                apply::none_is_there(found)
            ),
            Before::Configurations(_) => format!("{} has these settings", self.name),
            other => lines(other).join(" "),
        }
    }

    /// The difference, with a dot for each secret: of a text as diff(1) has it with `-u`, of what has
    /// one line that line. Empty where nothing would change.
    pub fn diff(&self) -> String {
        if self.is_none() {
            return String::new();
        }
        if let (Before::Configurations(before), Before::Configurations(after)) =
            (&self.before, &self.after)
        {
            let pairs = before.iter().zip(after.values());
            let changed = pairs.filter(|((_, before), after)| before != after);
            let differences = changed.map(|((name, before), after)| {
                let name = format!("ConfigMap {SYSTEM}/{name}, data.kubelet");
                difference(
                    &name,
                    before.as_deref(),
                    after.as_deref().unwrap_or_default(),
                )
            });
            return differences.collect();
        }
        let removed = lines(&self.before).into_iter();
        let added = lines(&self.after).into_iter();
        let removed = removed.map(|line| format!("-{line}\n"));
        removed
            .chain(added.map(|line| format!("+{line}\n")))
            .collect()
    }
}

/// What there is as people read it.
fn lines(found: &Before) -> Vec<String> {
    match found {
        Before::Unit(unit) => vec![unit.to_string()],
        Before::Cordoned(cordoned) => vec![format!("unschedulable: {cordoned}")],
        Before::Annotation(Some(value)) => {
            secrets::hidden(value).lines().map(str::to_string).collect()
        }
        _ => Vec::new(),
    }
}
