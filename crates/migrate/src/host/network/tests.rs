//! With the node's own iptables, in a network of the test's own, and rules that a real dockerd made.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// The directory of the process that has namespaces of its own.
const INSIDE: &str = "SLIPWAY_TEST_INSIDE";

const OTHERS: &str = r#"
iptables -N KUBE-FORWARD
iptables -A FORWARD -m comment --comment 'kubernetes "forwarding" rules' -j KUBE-FORWARD
iptables -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -t nat -A POSTROUTING -s 10.244.0.0/16 ! -o cni0 -j MASQUERADE
ip6tables -A FORWARD -s fd00:10::/64 -j ACCEPT
"#;

const OWN_RULE: &str = "-s 192.0.2.0/24 -m comment --comment \"not \\\"these\\\"\" -j DROP";

/// Runs the test of that name again, once for each kind of iptables, in namespaces that end with it
/// and with them all that it has started.
fn in_own_namespaces(test: &str) {
    for kind in ["nft", "legacy"] {
        let tree = tempfile::tempdir().unwrap();
        for directory in ["bin", "sys"] {
            fs::create_dir(tree.path().join(directory)).unwrap();
        }
        for family in ["iptables", "ip6tables"] {
            for end in ["", "-save", "-restore"] {
                let program = format!("/usr/sbin/{family}-{kind}{end}");
                symlink(program, tree.path().join(format!("bin/{family}{end}"))).unwrap();
            }
        }
        let path = std::env::var("PATH").unwrap();
        // As slipway-testbed has it.
        let path = match std::env::var("SLIPWAY_TEST_DOCKER") {
            Ok(docker) => format!("{docker}:{path}"),
            Err(_) => path,
        };
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--pid"])
            .args(["--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args(["--nocapture", "--exact"])
            .arg(format!("host::network::tests::{test}"))
            .env(INSIDE, tree.path())
            .env("PATH", format!("{}/bin:{path}", tree.path().display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{kind}: {said}\n{complained}"
        );
    }
}

/// A node whose root is a scratch directory with `/sys`.
struct Machine {
    tree: PathBuf,
    /// What Docker said of its networks.
    networks: RefCell<Vec<DockerNetwork>>,
}

impl Machine {
    fn new(tree: PathBuf) -> Self {
        let machine = Self {
            tree,
            networks: RefCell::default(),
        };
        machine.shell("mount -t sysfs sysfs sys");
        machine.shell("ip link set lo up");
        // Where it was switched off, Docker switches it on, and drops what it has no rules for.
        machine.shell("echo 0 > /proc/sys/net/ipv4/ip_forward");
        machine.shell(OTHERS);
        machine
    }

    fn shell(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        let output = command.args(["-ec", script]).current_dir(&self.tree);
        let output = output.output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What iptables-save writes, without what changes by itself.
    fn rules(&self) -> Vec<String> {
        let text = self.shell("iptables-save; ip6tables-save");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut lines: Vec<_> = lines
            .map(|line| line.split(" [").next().unwrap().to_string())
            .collect();
        // iptables-nft has those tables alone that somebody has used.
        let empty = ["*nat", "*filter", "*raw", "*mangle", "COMMIT"];
        lines.retain(|line| !empty.contains(&line.as_str()) && !line.ends_with(" ACCEPT"));
        lines.sort_by_key(|line| line.starts_with(':'));
        lines
    }

    /// Starts dockerd, and waits until it has made its networks.
    fn docker(&self) -> Child {
        self.docker_with("{}")
    }

    fn docker_with(&self, configuration: &str) -> Child {
        fs::write(self.tree.join("docker.json"), configuration).unwrap();
        let log = self.tree.join("docker.log");
        let mut child = Command::new("dockerd")
            .current_dir(&self.tree)
            .args(["--config-file", "docker.json", "--group=0"])
            .arg("--data-root")
            .arg(self.tree.join("data"))
            .arg("--exec-root")
            .arg(self.tree.join("run"))
            .arg("--pidfile")
            .arg(self.tree.join("docker.pid"))
            .arg(format!("--host={}", self.host()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let said = || fs::read_to_string(&log).unwrap();
        loop {
            let mut asked = Command::new("docker");
            let asked = asked.args(["-H", &self.host(), "version"]).output();
            if asked.unwrap().status.success() {
                return child;
            }
            assert!(child.try_wait().unwrap().is_none(), "{}", said());
            assert!(begun.elapsed() < Duration::from_mins(2), "{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.tree.join("d.sock").display())
    }

    /// Has Docker make a network, and learns of it; its bridge.
    async fn create_network(&self, name: &str, options: &str) -> String {
        let host = self.host();
        let id = self.shell(&format!("docker -H {host} network create {options} {name}"));
        let told = crate::node::told_by_docker(&self.tree.join("d.sock")).await;
        assert_eq!(
            told.data_root.as_deref(),
            self.tree.join("data").to_str(),
            "of {name}"
        );
        *self.networks.borrow_mut() = told.networks;
        format!("br-{}", &id[..12])
    }

    fn network(&self) -> Network {
        let networks = self.networks.borrow().clone();
        Network::new(Root::new(&self.tree), None, networks)
    }

    fn has(&self, link: &str) -> bool {
        self.tree.join("sys/class/net").join(link).exists()
    }

    /// Cleans, and returns what was said meanwhile.
    async fn clean(&self) -> Vec<String> {
        let said = RefCell::new(Vec::new());
        let progress = |line: &str| said.borrow_mut().push(line.to_string());
        self.network().clean(&progress).await.unwrap();
        said.into_inner()
    }
}

fn stop(mut docker: Child) {
    let pid = rustix::process::Pid::from_child(&docker);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    docker.wait().unwrap();
}

#[tokio::test]
async fn what_dockerd_made_goes_and_comes_again() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return in_own_namespaces("what_dockerd_made_goes_and_comes_again");
    };
    let machine = Machine::new(tree.into());
    let untouched = machine.rules();
    let docker = machine.docker();
    let other = machine.create_network("other", "").await;
    stop(docker);
    let with_docker = machine.rules();
    assert!(
        with_docker.contains(&":FORWARD DROP".to_string()),
        "{with_docker:#?}"
    );
    assert!(with_docker.len() > untouched.len() + 20, "{with_docker:#?}");

    let before = machine.network().state().await.unwrap();
    assert_eq!(before.forward[0].as_deref(), Some("DROP"));
    assert_eq!(before.bridge.as_deref(), Some("docker0"));
    let said = machine.clean().await;
    assert_eq!(machine.rules(), untouched);
    assert!(!machine.has("docker0") && !machine.has(&other));
    assert!(said.is_empty(), "{said:?}");
    assert!(machine.clean().await.is_empty());
    assert_eq!(machine.rules(), untouched);

    for _ in 0..2 {
        machine.network().restore(&before).await.unwrap();
        assert_eq!(machine.rules(), with_docker);
    }
    stop(machine.docker());
    let again = machine.network().state().await.unwrap();
    assert_eq!(again.bridge, before.bridge);
    assert!(machine.has(&other));
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(machine.rules()), sorted(with_docker));
    machine.network().restore(&before).await.unwrap();
    machine.clean().await;
    assert_eq!(machine.rules(), untouched);
}

#[tokio::test]
async fn peoples_own_rules_and_bridges_in_use_stay_and_are_named() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return in_own_namespaces("peoples_own_rules_and_bridges_in_use_stay_and_are_named");
    };
    let machine = Machine::new(tree.into());
    let untouched = machine.rules();
    stop(machine.docker());
    let comment = "--comment 'not \"these\"'";
    machine.shell(&format!(
        "iptables -I DOCKER-USER -s 192.0.2.0/24 -m comment {comment} -j DROP"
    ));
    machine
        .shell("ip link add port0 type veth peer name port1 && ip link set port0 master docker0");
    let before = machine.network().state().await.unwrap();
    let with_docker = machine.rules();
    let said = machine.clean().await;
    assert!(said[0].contains(OWN_RULE), "{said:?}");
    assert_eq!(
        said[1],
        "docker0 stays, because something is connected to it: port0"
    );
    let left = machine.rules();
    let own = format!("-A DOCKER-USER {OWN_RULE}");
    // Only older versions of Docker end the chain with it.
    let end = "-A DOCKER-USER -j RETURN";
    let new = left
        .iter()
        .filter(|line| !untouched.contains(line) && *line != end);
    assert_eq!(
        new.collect::<Vec<_>>(),
        ["-A FORWARD -j DOCKER-USER", &own, ":DOCKER-USER -"]
    );
    machine.network().restore(&before).await.unwrap();
    assert_eq!(machine.rules(), with_docker);
}

#[tokio::test]
async fn a_bridge_that_is_not_known_to_be_dockers_stays() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return in_own_namespaces("a_bridge_that_is_not_known_to_be_dockers_stays");
    };
    let machine = Machine::new(tree.into());
    machine.shell("ip link add lan0 type bridge && ip addr add 10.9.0.1/24 dev lan0");
    let docker = machine.docker();
    let named = "--opt com.docker.network.bridge.name=lan0 --subnet 10.9.0.0/24 --gateway 10.9.0.1";
    machine.create_network("lan", named).await;
    let used = machine.create_network("used", "").await;
    let inside = machine.create_network("inside", "--internal").await;
    let known = machine.networks.borrow().clone();
    let forgotten = machine.create_network("forgotten", "").await;
    *machine.networks.borrow_mut() = known;
    stop(docker);
    machine.shell(&format!("ip addr add 192.0.2.9/24 dev {used}"));
    let said = machine.clean().await;
    let foreign = "addresses that are not of Docker's network used: 192.0.2.9";
    assert_eq!(
        said[0],
        format!("{used} stays, because it has {foreign}"),
        "{said:?}"
    );
    let mut unknown = [forgotten.as_str(), "lan0"];
    unknown.sort_unstable();
    let mut stay: Vec<_> = said[1].rsplit_once(": ").unwrap().1.split(", ").collect();
    stay.sort_unstable();
    assert_eq!(stay, unknown, "{said:?}");
    assert!(machine.has("lan0") && machine.has(&forgotten) && machine.has(&used));
    assert!(!machine.has(&inside) && !machine.has("docker0"));
}

/// Docker's version, the first number of it.
fn version(machine: &Machine) -> u32 {
    let said = machine.shell("dockerd --version");
    let number = said.split_whitespace().find_map(|word| {
        let (number, _) = word.split_once('.')?;
        number.parse().ok()
    });
    number.unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test]
async fn dockers_tables_of_nftables_go_and_no_others() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return in_own_namespaces("dockers_tables_of_nftables_go_and_no_others");
    };
    let machine = Machine::new(tree.into());
    machine.shell("nft add table ip peoples; nft add table ip docker-bridges-of-mine");
    let untouched = machine.shell("nft list ruleset");
    let mut other = None;
    if version(&machine) < 29 {
        machine.shell("nft add table ip docker-bridges; nft add table ip6 docker-bridges");
        machine.shell("nft add chain ip docker-bridges filter-FORWARD");
    } else {
        // It makes packets pass the node only where it is allowed to, with this.
        machine.shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
        machine.shell("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let docker = machine.docker_with("{\"firewall-backend\": \"nftables\"}");
        other = Some(machine.create_network("other", "").await);
        stop(docker);
    }
    let tables = machine.shell("nft list tables");
    assert!(tables.contains("table ip docker-bridges\n"), "{tables}");
    assert!(tables.contains("table ip6 docker-bridges\n"), "{tables}");
    for _ in 0..2 {
        assert!(machine.clean().await.is_empty());
        assert_eq!(machine.shell("nft list ruleset"), untouched);
        assert!(!machine.has("docker0") && other.iter().all(|other| !machine.has(other)));
    }
}

#[tokio::test]
async fn another_firewalls_policy_is_not_dockers() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return in_own_namespaces("another_firewalls_policy_is_not_dockers");
    };
    let machine = Machine::new(tree.into());
    machine.shell("iptables -N ufw-before-forward; iptables -P FORWARD DROP");
    let untouched = machine.rules();
    stop(machine.docker());
    let said = machine.clean().await;
    assert_eq!(machine.rules(), untouched);
    assert!(said[0].contains("this node's firewall's too"), "{said:?}");

    machine.shell("iptables -X ufw-before-forward; mkdir -p etc/iptables");
    machine.shell("printf '*filter\\n:FORWARD DROP [0:0]\\nCOMMIT\\n' > etc/iptables/rules.v4");
    stop(machine.docker());
    let said = machine.clean().await;
    assert!(said[0].contains("/etc/iptables/rules.v4's too"), "{said:?}");
    assert!(machine.rules().contains(&":FORWARD DROP".to_string()));
}

#[test]
fn a_device_that_is_not_there_is_removed_already() {
    link::remove("none-such").unwrap();
}
