//! `slipway engines`.

use serde_json::Value;
use slipway_cri_api::slipway::{Engine, EnginePod};

use crate::fake::{Fake, minutes_ago};

/// A node that leaves Docker, with so many pods still there.
fn leaving(pods: usize, trouble: &str) -> Fake {
    let fake = Fake::start();
    let pod = |number: usize| EnginePod {
        id: format!("{number:064}"),
        name: format!("web-{number}"),
        namespace: "default".to_owned(),
        attempt: 0,
        ready: number == 0,
        created_at: minutes_ago(5),
        unknown: !trouble.is_empty(),
    };
    let engine = |name: &str, takes_new_pods| Engine {
        name: name.to_owned(),
        takes_new_pods,
        ..Default::default()
    };
    fake.state.lock().unwrap().engines = vec![
        engine("native", true),
        Engine {
            trouble: trouble.to_owned(),
            pods: (0..pods).map(pod).collect(),
            ..engine("docker", false)
        },
    ];
    fake
}

#[tokio::test]
async fn who_is_left_is_named() {
    let fake = leaving(2, "");
    assert_eq!(
        fake.stdout(&["engines"]).await,
        "ENGINE   NEW PODS   PODS   STATE\n\
         native   yes        0      Ready\n\
         docker   no         2      Ready\n\
         \n\
         Left in docker:\n\
         POD ID          CREATED         STATE      NAME    NAMESPACE   ATTEMPT\n\
         0000000000000   5 minutes ago   Ready      web-0   default     0\n\
         0000000000000   5 minutes ago   NotReady   web-1   default     0\n"
    );
    let json: Value = serde_json::from_str(&fake.stdout(&["engines", "-o", "json"]).await).unwrap();
    let docker = &json["engines"][1];
    assert_eq!(docker["takesNewPods"], false);
    assert_eq!(docker["pods"][1]["name"], "web-1");
}

#[tokio::test]
async fn pods_of_an_engine_that_cannot_be_asked_are_unknown() {
    let fake = leaving(1, "docker.sock: connection refused");
    let told = fake.stdout(&["engines"]).await;
    let row = "0000000000000   5 minutes ago   Unknown   web-0   default     0\n";
    assert!(told.ends_with(row), "{told}");
}

#[tokio::test]
async fn lists_for_people_say_which_pods_are_unknown() {
    let fake = crate::populated();
    let known = [
        fake.stdout(&["ps", "-a"]).await,
        fake.stdout(&["pods"]).await,
    ];
    fake.state.lock().unwrap().engines = vec![Engine {
        name: "docker".to_owned(),
        pods: vec![EnginePod {
            id: "aaaa0000000000000000".to_owned(),
            ready: true,
            unknown: true,
            ..Default::default()
        }],
        ..Default::default()
    }];
    let [containers, pods] = known;
    assert_eq!(
        fake.stdout(&["ps", "-a"]).await,
        containers.replace("Running", "Unknown")
    );
    let pods = pods.replace("Ready      web", "Unknown    web");
    assert_eq!(fake.stdout(&["pods"]).await, pods);
    let json: Value = serde_json::from_str(&fake.stdout(&["ps", "-o", "json"]).await).unwrap();
    assert_eq!(json["containers"][0]["state"], "CONTAINER_UNKNOWN");
}

#[tokio::test]
async fn docker_can_be_stopped_when_it_is_empty_and_known_to_be() {
    let told = "it can be stopped";
    assert!(leaving(0, "").stdout(&["engines"]).await.contains(told));
    let fake = leaving(0, "docker.sock: connection refused");
    let unknown = fake.stdout(&["engines"]).await;
    assert!(!unknown.contains(told), "{unknown}");
    assert!(
        unknown.contains("NotReady: docker.sock: connection refused"),
        "{unknown}"
    );
}

#[tokio::test]
async fn another_runtime_has_none() {
    let said = Fake::start().failure(1, &["engines"]).await;
    assert!(said.contains("not Slipway"), "{said}");
}
