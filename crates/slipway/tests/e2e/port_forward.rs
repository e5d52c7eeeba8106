//! Forwarded ports, from the client through the streaming server into a pod's network.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use slipway_cri_api::v1::NamespaceMode;
use slipway_testbed::{Node, eventually, pod, read_log};

use crate::node;
use crate::session::{Client, PATIENCE, apart, code};

#[tokio::test]
async fn ports_are_forwarded_with_both_their_ends() {
    let (node, image) = node().await;
    // One echoes; the other answers when its client has said everything.
    let script = "nc -ll -p 7001 -e cat & nc -ll -p 7002 -e wc -c & \
                  until nc -w 1 127.0.0.1 7002 </dev/null; do sleep 0.05; done; \
                  until echo | nc -w 1 127.0.0.1 7001; do sleep 0.05; done; echo ready; wait";
    let container = pod::shell("main", &image, script);
    let config = node.pod("served");
    let pod = node.cri().run_pod(&config).await.unwrap();
    node.cri().launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    eventually("the servers", PATIENCE, async || {
        Ok(read_log(&log).iter().any(|line| line.text == "ready"))
    })
    .await
    .unwrap();

    let mut client = Client::start(&node, &["port-forward", &pod, ":7001", ":7002", ":7003"]);
    let mut local = Vec::new();
    for remote in ["7001", "7002", "7003"] {
        let line = loop {
            let line = client.shows("\n").await;
            if line.contains("127.0.0.1") {
                break line;
            }
        };
        assert!(line.ends_with(&format!(" -> {remote}\n")), "{line}");
        let port = line.split("127.0.0.1:").nth(1).unwrap();
        local.push(port.split(' ').next().unwrap().parse::<u16>().unwrap());
    }
    let (echo, count, nothing) = (local[0], local[1], local[2]);
    let connect = |port: u16| {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // Two connections to one port at the same time, and one to another.
    let (mut one, mut two) = (connect(echo), connect(echo));
    let mut counted = connect(count);
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let sent = bytes.clone();
    let mut writer = one.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&sent));
    two.write_all(b"hello").unwrap();
    counted.write_all(&bytes).unwrap();
    counted.shutdown(Shutdown::Write).unwrap();
    let (counted, mut two, one) = apart(move || {
        let mut text = String::new();
        counted.read_to_string(&mut text).unwrap();
        let mut hello = [0; 5];
        two.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        let mut back = vec![0; bytes.len()];
        one.read_exact(&mut back).unwrap();
        assert!(back == bytes, "what comes back is not what was sent");
        (text, two, one)
    })
    .await;
    assert_eq!(counted.trim(), "3000000");
    writing.join().unwrap().unwrap();
    drop(one);
    two.shutdown(Shutdown::Write).unwrap();
    apart(move || assert_eq!(two.read(&mut [0]).unwrap(), 0)).await;

    let mut refused = connect(nothing);
    apart(move || assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0)).await;
    let mut errors = BufReader::new(client.0.stderr.take().unwrap());
    let (first, mut errors) = apart(move || {
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        (line, errors)
    })
    .await;
    assert!(first.contains("nothing listens on port 7003"), "{first}");
    let own = rustix::process::Pid::from_child(&client.0);
    rustix::process::kill_process(own, rustix::process::Signal::INT).unwrap();
    assert_eq!(code(client).await, Some(130));
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    // Nothing of the daemon has stayed in the pod's network.
    let daemon = format!("/proc/{}", node.daemon.pid());
    let own = std::fs::read_link(format!("{daemon}/ns/net")).unwrap();
    eventually("all threads to be at home", PATIENCE, async || {
        let threads = std::fs::read_dir(format!("{daemon}/task"))?.flatten();
        let homes = threads.map(|thread| std::fs::read_link(thread.path().join("ns/net")));
        Ok(homes.flatten().all(|home| home == own))
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_is_connected_to_there() {
    let node = Node::start().await.unwrap();
    let mut config = node.pod("host");
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    let namespaces = security.namespace_options.as_mut().unwrap();
    namespaces.network = NamespaceMode::Node.into();
    config.hostname.clear();
    let pod = node.cri().run_pod(&config).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut client = Client::start(&node, &["port-forward", &pod, &format!(":{port}")]);
    let line = client.shows("\n").await;
    let local = line
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{local}")).unwrap();
    apart(move || {
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"from the node").unwrap();
        drop(served);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from the node");
    })
    .await;
    drop(client);
    node.finish().await.unwrap();
}
