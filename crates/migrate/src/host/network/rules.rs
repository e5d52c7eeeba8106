//! Rules of the packet filter in the words of iptables-save(8): which are Docker's, and what
//! iptables-restore(8) has to be told to remove them, or to have them again.

use std::collections::BTreeSet;

/// The chains that Docker makes (docs.docker.com, "Packet filtering and firewalls"), and that its
/// older versions made. People's own chains may be called DOCKER-… as well.
const CHAINS: [&str; 10] = [
    "DOCKER",
    "DOCKER-BRIDGE",
    "DOCKER-CT",
    "DOCKER-FORWARD",
    "DOCKER-INGRESS",
    "DOCKER-INTERNAL",
    "DOCKER-ISOLATION",
    "DOCKER-ISOLATION-STAGE-1",
    "DOCKER-ISOLATION-STAGE-2",
    PEOPLES,
];

/// The chain that Docker makes for people's own rules, which all forwarded packets go through.
const PEOPLES: &str = "DOCKER-USER";

/// Chains of firewalls that see to FORWARD's policy themselves: ufw, firewalld.
const FIREWALLS: [&str; 5] = ["ufw-", "ufw6-", "FORWARD_direct", "FORWARD_IN_ZONES", "FWD"];

/// A table, `filter` or `nat` for instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    name: String,
    chains: Vec<Chain>,
}

#[derive(Debug, Clone, Default)]
struct Chain {
    name: String,
    /// Of a chain that the kernel has by itself.
    policy: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    /// As it is written, behind the chain's name.
    text: String,
    words: Vec<String>,
}

/// Reads what iptables-save writes. What it does not know is passed over.
pub(super) fn parse(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                name: name.to_string(),
                chains: Vec::new(),
            });
            continue;
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(chain) = line.strip_prefix(':') {
            let mut fields = chain.split_whitespace();
            let name = fields.next().unwrap_or_default();
            let policy = fields.next().filter(|policy| *policy != "-");
            table.make(name).policy = policy.map(str::to_string);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (name, text) = rule.split_once(' ').unwrap_or((rule, ""));
            table.make(name).rules.push(Rule::new(text));
        }
    }
    tables
}

/// The words of a rule, quoted as iptables does it: `"` around, `\` before `"` and `\`.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

impl Rule {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_string(),
            words: words(text),
        }
    }

    fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// The chain that it goes to, or its verdict.
    fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    /// What is behind a word.
    fn value(&self, option: &str) -> Option<&str> {
        let place = self.words.iter().position(|word| word == option)?;
        self.words.get(place + 1).map(String::as_str)
    }
}

impl Table {
    /// The chain of that name, which is made if need be.
    fn make(&mut self, name: &str) -> &mut Chain {
        let place = self.chains.iter().position(|chain| chain.name == name);
        let place = place.unwrap_or_else(|| {
            self.chains.push(Chain {
                name: name.to_string(),
                ..Chain::default()
            });
            self.chains.len() - 1
        });
        &mut self.chains[place]
    }

    fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The rules of a chain; none where there is no such chain.
    fn rules(&self, chain: &str) -> &[Rule] {
        self.chain(chain).map_or(&[], |chain| &chain.rules)
    }
}

fn table<'a>(tables: &'a [Table], name: &str) -> Option<&'a Table> {
    tables.iter().find(|table| table.name == name)
}

/// The policy of FORWARD.
pub(super) fn forward(tables: &[Table]) -> Option<&str> {
    table(tables, "filter")?.chain("FORWARD")?.policy.as_deref()
}

/// Whether another firewall has chains here, whose policy of FORWARD it may be.
pub(super) fn has_firewall(tables: &[Table]) -> bool {
    let mut chains = tables.iter().flat_map(|table| &table.chains);
    chains.any(|chain| FIREWALLS.iter().any(|start| chain.name.starts_with(start)))
}

/// What Docker has in one family's packet filter.
#[derive(Debug)]
pub(super) struct Docker<'a> {
    tables: &'a [Table],
    bridges: BTreeSet<&'a str>,
}

impl<'a> Docker<'a> {
    /// `bridge` is that of Docker's default network; those of others are known by the rules that
    /// only Docker makes.
    pub(super) fn find(tables: &'a [Table], bridge: &'a str) -> Self {
        let mut bridges = BTreeSet::from([bridge]);
        for table in tables {
            for chain in &table.chains {
                for rule in &chain.rules {
                    bridges.extend(bridge_of(&chain.name, rule));
                }
            }
        }
        Self { tables, bridges }
    }

    /// The bridges of its networks, if they have one.
    pub(super) fn bridges(&self) -> impl Iterator<Item = &'a str> {
        self.bridges.iter().copied()
    }

    /// People's own rules, which are in a chain of Docker's.
    pub(super) fn peoples(&self) -> Vec<&'a str> {
        table(self.tables, "filter").map_or_else(Vec::new, |table| {
            let rules = table.rules(PEOPLES).iter();
            let own = rules.filter(|rule| rule.words() != ["-j", "RETURN"]);
            own.map(|rule| rule.text.as_str()).collect()
        })
    }

    /// Its chains, and its rules in the chains of others, so that [`addition`] can have them again.
    pub(super) fn saved(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in self.tables {
            let of_docker = self.of(table);
            if of_docker.is_empty() {
                continue;
            }
            lines.push(format!("*{}", table.name));
            for name in &of_docker.chains {
                lines.push(format!("-N {name}"));
            }
            for name in &of_docker.chains {
                let rules = table.rules(name).iter();
                lines.extend(rules.map(|rule| format!("-A {name} {}", rule.text)));
            }
            for (chain, place, rule) in &of_docker.rules {
                lines.push(format!("-I {chain} {place} {}", rule.text));
            }
        }
        lines
    }

    /// What removes all that, a transaction for each table; the one that tells most about what is
    /// Docker's comes last. `policy` is set where chains of Docker's are removed with it.
    pub(super) fn removal(&self, policy: Option<&str>) -> Vec<String> {
        let mut tables: Vec<_> = self.tables.iter().collect();
        // What others' rules are told by goes after them: nat after raw, filter after all.
        tables.sort_by_key(|table| match table.name.as_str() {
            "filter" => 2,
            "nat" => 1,
            _ => 0,
        });
        let mut transactions = Vec::new();
        for table in tables {
            let of_docker = self.of(table);
            if of_docker.is_empty() {
                continue;
            }
            let mut lines = vec![format!("*{}", table.name)];
            if table.name == "filter" {
                lines.extend(policy.map(|policy| format!("-P FORWARD {policy}")));
            }
            for (chain, _, rule) in &of_docker.rules {
                lines.push(format!("-D {chain} {}", rule.text));
            }
            for command in ["-F", "-X"] {
                let chains = of_docker.chains.iter();
                lines.extend(chains.map(|name| format!("{command} {name}")));
            }
            lines.push("COMMIT\n".to_string());
            transactions.push(lines.join("\n"));
        }
        transactions
    }

    fn of(&self, table: &'a Table) -> OfDocker<'a> {
        let mut chains: BTreeSet<_> = table.chains.iter().map(|chain| &*chain.name).collect();
        chains.retain(|name| CHAINS.contains(name));
        if table.name == "filter" && !self.peoples().is_empty() {
            let mut kept = vec![PEOPLES];
            while let Some(name) = kept.pop() {
                chains.remove(name);
                let targets = table.rules(name).iter().filter_map(Rule::target);
                kept.extend(targets.filter(|target| chains.contains(target)));
            }
        }
        let mut rules = Vec::new();
        for chain in &table.chains {
            if CHAINS.contains(&chain.name.as_str()) {
                continue;
            }
            for (place, rule) in (1..).zip(&chain.rules) {
                let is_jump = rule.target().is_some_and(|target| chains.contains(target));
                if is_jump || self.is_own(&table.name, &chain.name, rule) {
                    rules.push((chain.name.as_str(), place, rule));
                }
            }
        }
        OfDocker { chains, rules }
    }

    /// Whether a rule in a chain of others is one that Docker makes for a bridge of its own.
    fn is_own(&self, table: &str, chain: &str, rule: &Rule) -> bool {
        let words = rule.words();
        match (table, chain) {
            ("filter", "FORWARD") => self.forwards(&words),
            ("nat", "POSTROUTING") => self.masquerades(&words),
            ("raw", "PREROUTING") => self.guards(&words),
            _ => false,
        }
    }

    fn forwards(&self, words: &[&str]) -> bool {
        match words {
            [
                "-o",
                bridge,
                "-m",
                "conntrack",
                "--ctstate",
                states,
                "-j",
                "ACCEPT",
            ] => *states == "RELATED,ESTABLISHED" && self.bridges.contains(bridge),
            ["-i", from, "!", "-o", to, "-j", "ACCEPT"]
            | ["-i", from, "-o", to, "-j", "ACCEPT" | "DROP"] => {
                from == to && self.bridges.contains(from)
            }
            _ => false,
        }
    }

    fn masquerades(&self, words: &[&str]) -> bool {
        match words {
            ["-s", _, "!", "-o", bridge, "-j", "MASQUERADE"]
            | ["-s", _, "!", "-o", bridge, "-j", "SNAT", "--to-source", _]
            | [
                "-o",
                bridge,
                "-m",
                "addrtype",
                "--src-type",
                "LOCAL",
                "-j",
                "MASQUERADE",
            ] => self.bridges.contains(bridge),
            [
                "-s",
                from,
                "-d",
                to,
                "-p",
                _,
                "-m",
                _,
                "--dport",
                port,
                "-j",
                "MASQUERADE",
            ] => from == to && self.publishes(from, port),
            _ => false,
        }
    }

    /// What keeps others from reaching containers' addresses directly.
    fn guards(&self, words: &[&str]) -> bool {
        match words {
            ["-d", _, "!", "-i", bridge, "-j", "DROP"] => self.bridges.contains(bridge),
            [
                "-d",
                "127.0.0.1/32",
                "!",
                "-i",
                "lo",
                "-p",
                _,
                "-m",
                _,
                "--dport",
                port,
                "-j",
                "DROP",
            ] => self.publishes_on_loopback(port),
            _ => false,
        }
    }

    fn translations(&self) -> impl Iterator<Item = &'a Rule> {
        let nat = table(self.tables, "nat");
        let rules = nat.map_or(&[][..], |nat| nat.rules("DOCKER")).iter();
        rules.filter(|rule| rule.target() == Some("DNAT"))
    }

    /// Whether a container's port is published, whose address has the prefix length of a host.
    fn publishes(&self, address: &str, port: &str) -> bool {
        let host = address.split('/').next().unwrap_or_default();
        let to = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        self.translations()
            .any(|rule| rule.value("--to-destination") == Some(&to))
    }

    fn publishes_on_loopback(&self, port: &str) -> bool {
        self.translations().any(|rule| {
            rule.value("-d") == Some("127.0.0.1/32") && rule.value("--dport") == Some(port)
        })
    }
}

/// What of a table is Docker's.
struct OfDocker<'a> {
    chains: BTreeSet<&'a str>,
    /// In chains of others: the chain, the rule's place in it, from 1.
    rules: Vec<(&'a str, usize, &'a Rule)>,
}

impl OfDocker<'_> {
    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.rules.is_empty()
    }
}

/// The bridge that a rule is about, if it is one that only Docker makes.
fn bridge_of<'a>(chain: &str, rule: &'a Rule) -> Option<&'a str> {
    match (chain, rule.words().as_slice()) {
        (_, ["-o", bridge, "-j", "DOCKER"]) | ("DOCKER", ["-i", bridge, "-j", "RETURN"]) => {
            Some(bridge)
        }
        (
            _,
            [
                "-i",
                bridge,
                "!",
                "-o",
                other,
                "-j",
                "DOCKER-ISOLATION-STAGE-2",
            ],
        ) => (bridge == other).then_some(bridge),
        _ => None,
    }
}

/// What has [`Docker::saved`] in the packet filter again, a transaction for each table. What is
/// there is left as it is: a chain with what is in it now, a rule where it is now.
pub(super) fn addition(now: &[Table], saved: &[String], policy: Option<&str>) -> Vec<String> {
    let mut additions: Vec<(&str, Vec<String>)> = Vec::new();
    let nothing = Table::default();
    let mut current = &nothing;
    let mut made = BTreeSet::new();
    let mut inserted: Vec<&str> = Vec::new();
    for line in saved {
        if let Some(name) = line.strip_prefix('*') {
            current = table(now, name).unwrap_or(&nothing);
            made.clear();
            inserted.clear();
            additions.push((name, Vec::new()));
            continue;
        }
        let Some((_, lines)) = additions.last_mut() else {
            continue;
        };
        let mut fields = line.splitn(3, ' ');
        let (Some(command), Some(chain)) = (fields.next(), fields.next()) else {
            continue;
        };
        let rest = fields.next().unwrap_or_default();
        match command {
            "-N" if current.chain(chain).is_none() => {
                made.insert(chain);
                lines.push(line.clone());
            }
            "-A" if made.contains(chain) => lines.push(line.clone()),
            "-I" => {
                let Some((place, text)) = rest.split_once(' ') else {
                    continue;
                };
                let rules = current.rules(chain);
                if rules.iter().any(|rule| rule.text == text) {
                    continue;
                }
                let others = inserted.iter().filter(|name| **name == chain).count();
                let last = rules.len() + others + 1;
                let place = place.parse().map_or(last, |place: usize| place.min(last));
                lines.push(format!("-I {chain} {place} {text}"));
                inserted.push(chain);
            }
            _ => {}
        }
    }
    if let Some(policy) = policy
        && forward(now).is_some_and(|now| now != policy)
    {
        let line = format!("-P FORWARD {policy}");
        match additions.iter_mut().find(|(name, _)| *name == "filter") {
            Some((_, lines)) => lines.push(line),
            None => additions.push(("filter", vec![line])),
        }
    }
    additions.retain(|(_, lines)| !lines.is_empty());
    let transactions = additions.into_iter().map(|(name, lines)| {
        let lines = lines.join("\n");
        format!("*{name}\n{lines}\nCOMMIT\n")
    });
    transactions.collect()
}

#[cfg(test)]
mod tests;
