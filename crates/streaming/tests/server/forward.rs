//! Sessions with a pod's ports, over both protocols.

use slipway_streaming::spdy::{Frame, Headers};

use crate::{Server, soon, spdy, websocket};

const SPDY: &str = "portforward.k8s.io";

#[tokio::test]
async fn spdy_carries_several_ports_in_one_connection() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        let (first, first_error) = client.connection(7, "0").await;
        let (second, second_error) = client.connection(80, "1").await;
        client.data(second, "a request", true).await;
        client.data(first, "echo", true).await;
        let texts = client
            .until_finished([first, first_error, second, second_error])
            .await;
        assert_eq!(texts, ["echo", "", "9 bytes", ""]);
        server.quiet().await;
        // And further ones, for as long as the connection is there.
        let (third, third_error) = client.connection(7, "2").await;
        client.data(third, "again", true).await;
        assert_eq!(
            client.until_finished([third, third_error]).await,
            ["again", ""]
        );
    })
    .await;
}

#[tokio::test]
async fn either_side_closes_its_own_direction() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        // The pod's: the client is told and can still send.
        let (data, error) = client.connection(17, "0").await;
        assert_eq!(client.until_finished([data, error]).await, ["quote", ""]);
        client.data(data, "one more thing", true).await;
        server.quiet().await;
        // The client's: what was sent before is answered.
        let (data, error) = client.connection(80, "1").await;
        client.data(data, "12345", false).await;
        client.data(data, "67890", true).await;
        assert_eq!(client.until_finished([data, error]).await, ["10 bytes", ""]);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_the_client_resets_is_closed_and_the_others_go_on() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        let (echo, echo_error) = client.connection(7, "0").await;
        let (data, _) = client.connection(9, "1").await;
        client.data(data, "x", false).await;
        let (stream, status) = (data, 5);
        client.send(Frame::RstStream { stream, status }).await;
        client.data(echo, "still", true).await;
        loop {
            match client.next().await.unwrap() {
                Frame::Data { stream, bytes, .. } if stream == echo && !bytes.is_empty() => {
                    assert_eq!(bytes, "still");
                    break;
                }
                Frame::Data { stream, .. } => assert_ne!(stream, echo_error),
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_named_and_the_others_go_on() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        let (_, error) = client.connection(1, "0").await;
        let [message] = client.until_finished([error]).await;
        assert!(message.contains("port 1 "), "{message}");
        assert!(message.contains("nobody listens"), "{message}");
        let (data, error) = client.connection(7, "1").await;
        client.data(data, "echo", true).await;
        assert_eq!(client.until_finished([data, error]).await, ["echo", ""]);
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_its_port_is_refused_alone() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        for headers in [
            Headers::from([("streamtype", "data")]),
            Headers::from([("streamtype", "data"), ("port", "0")]),
            Headers::from([("streamtype", "chat"), ("port", "80")]),
        ] {
            let stream = client.open(headers).await;
            let status = 3;
            let refused = Frame::RstStream { stream, status };
            assert_eq!(client.next().await, Some(refused));
        }
        let (data, error) = client.connection(7, "0").await;
        client.data(data, "echo", true).await;
        assert_eq!(client.until_finished([data, error]).await, ["echo", ""]);
    })
    .await;
}

#[tokio::test]
async fn clients_that_number_no_requests_are_understood() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        let headers = |kind| Headers::from([("streamtype", kind), ("port", "7")]);
        let (error, data) = (
            client.open(headers("error")).await,
            client.open(headers("data")).await,
        );
        client.data(data, "echo", true).await;
        assert_eq!(client.until_finished([data, error]).await, ["echo", ""]);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_will_open_nothing_more_is_served_to_the_end() {
    soon(async {
        let server = Server::start().await;
        let mut client = spdy::connect(&server.port_forward(&[]), SPDY).await;
        let (data, error) = client.connection(80, "0").await;
        let (last_stream, status) = (0, 0);
        client
            .send(Frame::GoAway {
                last_stream,
                status,
            })
            .await;
        client.data(data, "bye", true).await;
        assert_eq!(client.until_finished([data, error]).await, ["3 bytes", ""]);
        assert_eq!(client.next().await, None);
    })
    .await;
}

#[tokio::test]
async fn websocket_has_two_channels_for_each_port() {
    soon(async {
        let server = Server::start().await;
        for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""] {
            let url = server.port_forward(&[7, 1]);
            let mut client = websocket::connect(&url, protocol).await;
            let mut texts = [const { Vec::new() }; 4];
            client.send(0, b"echo").await;
            while texts[0].len() < 6 || texts[3].len() < 3 || texts[1].len() < 2 {
                let (channel, bytes) = client.next().await.unwrap();
                texts[usize::from(channel)].extend_from_slice(&bytes);
            }
            assert_eq!(texts[0], b"\x07\x00echo");
            assert_eq!(texts[1], b"\x07\x00");
            assert_eq!(texts[2], b"\x01\x00");
            assert_eq!(texts[3][..2], [1, 0]);
            let message = String::from_utf8_lossy(&texts[3]);
            assert!(message.contains("nobody listens"), "{message}");
        }
        let refused = websocket::try_connect(&server.port_forward(&[]), "v4.channel.k8s.io").await;
        assert!(refused.is_err(), "there are no channels");
    })
    .await;
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel_of_websocket_messages() {
    soon(async {
        let server = Server::start().await;
        let url = server.port_forward(&[]);
        let client = websocket::connect(&url, "SPDY/3.1+portforward.k8s.io").await;
        let mut client = spdy::Client::over(client.tunnel());
        let (data, error) = client.connection(80, "0").await;
        client.data(data, vec![b'x'; 500_000], true).await;
        assert_eq!(
            client.until_finished([data, error]).await,
            ["500000 bytes", ""]
        );
        server.quiet().await;
    })
    .await;
}
