//! Docker's answers, told by one that is none: what becomes of progress and of errors.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// A part of a request's first line, the status and the body it is answered with.
type Answered = (&'static str, u16, String);

struct Stage {
    docker: Docker,
    _dir: tempfile::TempDir,
}

fn stage(answers: Vec<Answered>) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers.clone()));
        }
    });
    Stage { docker: Docker::at(socket.to_str().unwrap()).unwrap(), _dir: dir }
}

async fn answer(mut stream: UnixStream, answers: Vec<Answered>) {
    let mut asked = Vec::new();
    let whole = |asked: &[u8]| {
        let text = String::from_utf8_lossy(asked).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let chunked = head.to_lowercase().contains("chunked");
        (!chunked || body.ends_with("0\r\n\r\n")).then(|| head.lines().next().unwrap_or_default().to_owned())
    };
    let line = loop {
        if let Some(line) = whole(&asked) {
            break line;
        }
        if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let version = ("/version", 200, r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12","Version":"20.10"}"#.to_owned());
    let known = answers.iter().chain([&version]).find(|(part, ..)| line.contains(part));
    let (status, body) = known.map_or((404, r#"{"message":"no such thing"}"#), |(_, status, body)| (*status, body));
    let head = format!(
        "HTTP/1.1 {status} So\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

#[tokio::test]
async fn a_pull_tells_how_far_it_is_and_not_too_often() {
    let mut steps = vec![
        r#"{"status":"Pulling from library/redis","id":"latest"}"#.to_owned(),
        r#"{"status":"Pulling fs layer","progressDetail":{},"id":"aa"}"#.to_owned(),
    ];
    steps.extend((0..=1000).map(|now| {
        format!(r#"{{"status":"Downloading","progressDetail":{{"current":{now},"total":1000}},"id":"aa"}}"#)
    }));
    steps.push(r#"{"status":"Pull complete","progressDetail":{},"id":"aa"}"#.to_owned());
    let stage = stage(vec![("fromImage=redis", 200, steps.join("\r\n"))]);
    let said = Mutex::new(Vec::new());
    stage.docker.pull("redis", &|line| said.lock().unwrap().push(line)).await.unwrap();
    let said = said.into_inner().unwrap();
    assert_eq!(said[..3], ["latest: Pulling from library/redis", "aa: Pulling fs layer", "aa: Downloading 0%"]);
    assert_eq!(said[said.len() - 2..], ["aa: Downloading 100%", "aa: Pull complete"]);
    assert_eq!(said.len(), 3 + 10 + 1);
}

#[tokio::test]
async fn what_the_engine_cannot_do_is_told_with_what_to_do_about_it() {
    let full = "write /var/lib/docker/tmp/x: no space left on device";
    let stage = stage(vec![
        ("fromImage=odd", 200, r#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#.into()),
        ("fromImage=big", 200, format!(r#"{{"errorDetail":{{"message":"{full}"}},"error":"{full}"}}"#)),
        (
            "/containers/web/start",
            500,
            r#"{"message":"driver failed: Bind for 0.0.0.0:80 failed: port is already allocated"}"#.into(),
        ),
        ("/containers/full/start", 500, format!(r#"{{"message":"{full}"}}"#)),
        (
            "/build",
            200,
            format!(
                "{{\"stream\":\"Step 1/2 : FROM x\\n\"}}\r\n{{\"errorDetail\":{{\"message\":\"{full}\"}},\"error\":\"{full}\"}}"
            ),
        ),
    ]);
    let quiet = |_: String| {};
    let docker = &stage.docker;
    let told = |error: Error, kind: Kind, what: &str, hint: &str| {
        assert_eq!(error.kind, kind, "{}", error.chain());
        assert!(error.chain().contains(what), "{}", error.chain());
        assert!(error.hint.as_ref().is_some_and(|text| text.contains(hint)), "{:?}", error.hint);
    };
    told(docker.pull("odd", &quiet).await.unwrap_err(), Kind::Failed, "manifest unknown", "registry");
    told(docker.pull("big", &quiet).await.unwrap_err(), Kind::NoSpace, "no space left", "docker system prune");
    told(docker.start("web").await.unwrap_err(), Kind::Failed, "already allocated", "another port");
    told(docker.start("full").await.unwrap_err(), Kind::NoSpace, "no space left", "docker system prune");
    let build = Build {
        tag: "x".into(),
        context: tempfile::tempfile().unwrap(),
        dockerfile: "Dockerfile".into(),
        no_cache: false,
        labels: Labels::new(),
    };
    told(docker.build(build, &quiet).await.unwrap_err(), Kind::NoSpace, "no space left", "docker system prune");
}

#[tokio::test]
async fn an_engine_that_hangs_up_is_one_that_does_not_answer() {
    let stage = stage(vec![]);
    stage.docker.ping().await.unwrap_err();
    let gone = Docker::at("/nowhere/docker.sock").unwrap();
    let error = gone.image("x").await.unwrap_err();
    assert!(error.chain().contains("does not answer") && error.hint.unwrap().contains("--docker"));
}
