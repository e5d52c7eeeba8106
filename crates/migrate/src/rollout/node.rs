//! One node of a rollout: asked to move, and followed until it has.

use std::cell::RefCell;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::objects::{self, NAME};
use super::state::{Phase, State};
use super::{Event, Rollout, is_there, name, soon};
use crate::control_plane;
use crate::control_plane::client::{Collection, Objects};
use crate::control_plane::refusal::Refusal;
use crate::control_plane::request::{JOBS, NODES, PODS, Permission, Verb};
use crate::control_plane::spoken;

/// What is seen of a Node that ends the waiting.
enum End {
    There,
    /// The move is over, but not well.
    Over(String),
    /// Its Job started nothing.
    NotBegun(String),
    /// It was left in the middle.
    Stopped(String),
    Gone,
}

impl Rollout<'_> {
    /// Why the node has not moved is said with its name.
    pub(super) async fn move_node(&self, node: &Value) -> Result<(), String> {
        let moved = self.try_to_move(node).await;
        moved.map_err(|why| format!("the Node {}: {why}", name(node)))
    }

    async fn try_to_move(&self, node: &Value) -> Result<(), String> {
        let told = |refusal: Refusal| refusal.to_string();
        let credentials = async || {
            let provided = self.provide_credentials().await;
            provided.map_err(|error| error.to_string())
        };
        let target = self.options.target;
        let state = match State::of(node) {
            Some(state) if state.is_going_on() && state.target != target => {
                return Err(format!(
                    "it is moving to {}; wait until it has",
                    state.target
                ));
            }
            Some(state) if state.is_going_on() => {
                if state.phase == Phase::Asked {
                    credentials().await?;
                }
                (self.heard)(Event::Follows(name(node)));
                state
            }
            Some(State {
                phase: Phase::Stopped { reason },
                ..
            }) => return Err(stopped(&reason)),
            _ => {
                // Before anything is asked of the node, which could not even go back without them.
                credentials().await?;
                (self.heard)(Event::Begins(name(node)));
                self.begin_anew(node).await.map_err(told)?
            }
        };
        if state.phase == Phase::Asked {
            self.make_job(node).await.map_err(told)?;
        }
        let last = RefCell::new(state.phase);
        let until = Instant::now() + self.options.patience;
        let end = tokio::select! {
            end = self.follow(node, until, &last) => end.map_err(told)?,
            why = self.does_not_start(node, &last) => Some(End::NotBegun(why)),
        };
        let why = match end {
            Some(End::There) => {
                self.annotate(node, None).await.map_err(told)?;
                (self.heard)(Event::Moved(name(node)));
                return Ok(());
            }
            Some(End::Over(why)) => why,
            Some(End::NotBegun(why)) => {
                let deleted = self.delete_job(node).await;
                deleted.map_err(|refusal| format!("{why}; {refusal}"))?;
                why
            }
            Some(End::Stopped(reason)) => return Err(stopped(&reason)),
            Some(End::Gone) => return Err("the cluster has no such Node any more".to_string()),
            None => {
                return Err(format!(
                    "it is not Ready on {target} after {}, and the last that it said of itself is: {}; see slipway migrate status on the node, and end it with slipway migrate resume",
                    spoken(self.options.patience),
                    said(&last.borrow()),
                ));
            }
        };
        self.annotate(node, None).await.map_err(told)?;
        Err(why)
    }

    /// Takes away what an earlier attempt left, and says that the node is asked to move.
    async fn begin_anew(&self, node: &Value) -> Result<State, Refusal> {
        self.delete_job(node).await?;
        let state = State {
            target: self.options.target,
            phase: Phase::Asked,
        };
        self.annotate(node, Some(&state)).await?;
        Ok(state)
    }

    async fn delete_job(&self, node: &Value) -> Result<(), Refusal> {
        let until = soon();
        let delete = Permission::new(Verb::Delete, JOBS).within(NAME);
        let delete = delete.named(&objects::job_name(node)).ask();
        // Its pods go with it only where that is asked for.
        let delete = delete.query("propagationPolicy", "Background");
        match self.api.ask(&delete, until).await {
            Ok(_) => {}
            Err(Refusal::NotFound(_)) => return Ok(()),
            Err(refusal) => return Err(refusal),
        }
        let gone = |jobs: &Objects| jobs.is_empty().then_some(());
        self.api.follow(&job_of(node), until, gone).await?;
        Ok(())
    }

    async fn make_job(&self, node: &Value) -> Result<(), Refusal> {
        let job = objects::job(self.options, node);
        let create = Permission::new(Verb::Create, JOBS).within(NAME);
        match self.api.ask(&create.ask().body(job.body), soon()).await {
            Ok(_) | Err(Refusal::AlreadyExists(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Waits until the node says that its move is over.
    async fn follow(
        &self,
        node: &Value,
        until: Instant,
        last: &RefCell<Phase>,
    ) -> Result<Option<End>, Refusal> {
        let nodes = Collection {
            fields: format!("metadata.name={}", name(node)),
            // The control plane that this asks may be the node that moves.
            patient: true,
            ..Collection::of(NODES)
        };
        let look = |nodes: &Objects| {
            let Some(node) = nodes.values().next() else {
                return Some(End::Gone);
            };
            let phase = State::of(node)?.phase;
            if *last.borrow() != phase {
                (self.heard)(Event::Says(name(node), &phase));
                last.replace(phase.clone());
            }
            match phase {
                Phase::Asked | Phase::Applying { .. } | Phase::RollingBack { .. } => None,
                Phase::Applied => {
                    let there =
                        is_there(node, self.options.target) && control_plane::is_ready(node);
                    there.then_some(End::There)
                }
                Phase::TakenBack { reason } => {
                    Some(End::Over(format!("{reason}; the node is what it was")))
                }
                Phase::Stopped { reason } => Some(End::Stopped(reason)),
            }
        };
        self.api.follow(&nodes, until, look).await
    }

    /// Waits until it is clear that the node's Job does not start anything; for ever where it does.
    async fn does_not_start(&self, node: &Value, last: &RefCell<Phase>) -> String {
        let jobs = job_of(node);
        let end = Instant::now() + self.options.start;
        let failed = self.api.follow(&jobs, end, |jobs| {
            let job = jobs.values().next()?;
            let mut conditions = job["status"]["conditions"].as_array()?.iter();
            let failed = |one: &&Value| one["type"] == "Failed" && one["status"] == "True";
            conditions.find(failed).map(|_| ())
        });
        let failed = timeout_at(end, failed).await;
        if *last.borrow() != Phase::Asked {
            return std::future::pending().await;
        }
        let what = match failed {
            Ok(Ok(Some(()))) => "its Job failed".to_string(),
            Ok(Err(refusal)) => refusal.to_string(),
            Ok(Ok(None)) | Err(_) => format!(
                "it said nothing for {}; where its pod has ended, journalctl -u slipway-migrate on the node has the reason",
                spoken(self.options.start)
            ),
        };
        format!(
            "{what} ({NAME}/{}: {})",
            objects::job_name(node),
            self.pods_of_job(node).await
        )
    }

    /// What became of the Job's pods.
    async fn pods_of_job(&self, node: &Value) -> String {
        let pods = Collection {
            namespace: NAME.to_string(),
            fields: format!("spec.nodeName={}", name(node)),
            ..Collection::of(PODS)
        };
        match self.api.list(&pods, soon()).await {
            Ok((pods, _)) => match pods.values().map(control_plane::pod_words).next_back() {
                Some(words) => words,
                None => "no pod was made".to_string(),
            },
            Err(refusal) => refusal.to_string(),
        }
    }
}

fn job_of(node: &Value) -> Collection {
    Collection {
        namespace: NAME.to_string(),
        fields: format!("metadata.name={}", objects::job_name(node)),
        ..Collection::of(JOBS)
    }
}

fn stopped(reason: &str) -> String {
    format!(
        "it was left in the middle of its move ({reason}): on the node, slipway migrate resume or slipway migrate rollback"
    )
}

fn said(phase: &Phase) -> String {
    match phase {
        Phase::Asked => "nothing".to_string(),
        Phase::Applying { step, of, doing } => format!("step {step} of {of}, {doing}"),
        Phase::RollingBack { reason } | Phase::TakenBack { reason } => reason.clone(),
        Phase::Applied => "that it has moved".to_string(),
        Phase::Stopped { reason } => stopped(reason),
    }
}
