//! What CRI asks of a session before there is a URL for it.

use slipway_cri_api::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use slipway_engine::Streams;
use tonic::Status;

/// The streams of an `ExecRequest`.
pub(crate) fn exec(request: &ExecRequest) -> Result<Streams, Status> {
    if request.cmd.is_empty() {
        return Err(Status::invalid_argument(
            "ExecRequest.cmd is empty; it must name the command to run",
        ));
    }
    let wanted = Streams {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.tty,
    };
    streams("ExecRequest", &request.container_id, wanted)
}

/// The streams of an `AttachRequest`.
pub(crate) fn attach(request: &AttachRequest) -> Result<Streams, Status> {
    let wanted = Streams {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.tty,
    };
    streams("AttachRequest", &request.container_id, wanted)
}

fn streams(message: &str, container: &str, streams: Streams) -> Result<Streams, Status> {
    if container.is_empty() {
        return Err(Status::invalid_argument(format!(
            "{message}.container_id is missing from the request"
        )));
    }
    if streams.terminal && streams.stderr {
        return Err(Status::invalid_argument(format!(
            "{message}.tty and {message}.stderr are both set; a terminal has one output, which \
             is stdout"
        )));
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Status::invalid_argument(format!(
            "{message}.stdin, {message}.stdout and {message}.stderr are all false; at least one \
             must be set"
        )));
    }
    Ok(streams)
}

/// The ports of a `PortForwardRequest`.
pub(crate) fn ports(request: &PortForwardRequest) -> Result<Vec<u16>, Status> {
    if request.pod_sandbox_id.is_empty() {
        return Err(Status::invalid_argument(
            "PortForwardRequest.pod_sandbox_id is missing from the request",
        ));
    }
    request
        .port
        .iter()
        .map(|&port| match u16::try_from(port) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(Status::invalid_argument(format!(
                "PortForwardRequest.port {port} is not between 1 and 65535"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[track_caller]
    fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, word: &str) {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(word), "{status:?}");
    }

    #[test]
    fn a_session_names_its_container_its_command_and_streams_that_go_together() {
        let good = ExecRequest {
            container_id: "c".into(),
            cmd: vec!["sh".into()],
            tty: true,
            stdin: true,
            stdout: true,
            ..ExecRequest::default()
        };
        let streams = exec(&good).unwrap();
        assert!(streams.terminal && streams.stdin && streams.stdout && !streams.stderr);
        let mut bad = good.clone();
        bad.container_id.clear();
        refused(exec(&bad), "ExecRequest.container_id");
        let mut bad = good.clone();
        bad.cmd.clear();
        refused(exec(&bad), "ExecRequest.cmd");
        let mut bad = good.clone();
        bad.stderr = true;
        refused(exec(&bad), "ExecRequest.stderr");
        let mut bad = good;
        (bad.stdin, bad.stdout) = (false, false);
        refused(exec(&bad), "ExecRequest.stdout");
        let empty = AttachRequest {
            container_id: "c".into(),
            ..AttachRequest::default()
        };
        refused(attach(&empty), "AttachRequest.stdin");
    }

    #[test]
    fn ports_are_ports() {
        let request = |port: &[i32]| PortForwardRequest {
            pod_sandbox_id: "p".into(),
            port: port.to_vec(),
        };
        assert!(ports(&request(&[])).unwrap().is_empty());
        assert_eq!(ports(&request(&[1, 65535])).unwrap(), [1, 65535]);
        for port in [0, -1, 65536] {
            refused(ports(&request(&[80, port])), "PortForwardRequest.port");
        }
        refused(ports(&PortForwardRequest::default()), "pod_sandbox_id");
    }
}
