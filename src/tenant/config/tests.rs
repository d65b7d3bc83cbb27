use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Kind;

/// As the manual of the command line prints it.
const EXAMPLE: &str = r#"
redis:
    image: redis                  # or build: DIR, or dockerfile: | inline source
    data: [/data]                 # volumes with live data; those the image declares count too
    snapshot: {before: "redis-cli save", after: "…"}
web:
    image: python:3.12
    cmd: /usr/src/app/run.sh
    volumes: {.: /usr/src/app}    # left: a path inside the tenant's own folder (code, config)
    env: {DEBUG: "1"}
    web: 5000                     # the port that `publish` serves; ssl: PORT for TLS passed through
    wait: 30                      # seconds, or '30s for "text in the log"'; the log line `@mcloud ready in 3s` ends it early
    health: {path: /up, timeout: 5}
    entrypoint: …                 # and workdir: …, extend: OTHER_SERVICE (its keys, overridden by these)
    ~prod: {env: {DEBUG: "0"}}    # merged in, at any depth, when the tenant's env is `prod`
"---": {hosts: {live: app@203.0.113.5}, commands: {ship: ["mcloud sync . {host}", "mcloud restart {host}"]}}   # `mcloud ship live`
"#;

fn good(text: &str) -> Config {
    parse(text, None).unwrap_or_else(|error| panic!("{text}\n{} / {:?}", error.chain(), error.hint))
}

fn with_env(text: &str, env: &str) -> Config {
    parse(text, Some(env)).unwrap_or_else(|error| panic!("{text}\n{} / {:?}", error.chain(), error.hint))
}

/// Refused at this place, with this in the message and this in the hint.
#[track_caller]
fn bad(text: &str, line: usize, column: usize, message: &str, hint: &str) {
    let error = match parse(text, None) {
        Ok(config) => panic!("accepted:\n{text}\n{config:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind, Kind::Usage);
    let place = format!("line {line}, column {column}: ");
    assert!(error.message.contains(&place), "{} is not at {place}", error.message);
    assert!(error.message.contains(message), "`{}` lacks `{message}`", error.message);
    let given = error.hint.unwrap_or_default();
    assert!(given.contains(hint), "the hint `{given}` lacks `{hint}`");
}

#[test]
fn the_manuals_example_is_read_whole() {
    let config = good(EXAMPLE);
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["redis", "web"]);
    let [redis, web] = &config.services[..] else { panic!() };
    assert_eq!(redis.origin, Origin::Image("redis".into()));
    assert_eq!(redis.data, [VolumePath::new("/data").unwrap()]);
    let minute = Duration::from_secs(60);
    assert_eq!(
        redis.snapshot,
        Hooks { before: Some("redis-cli save".into()), after: Some("…".into()), timeout: minute }
    );
    assert_eq!(web.origin, Origin::Image("python:3.12".into()));
    assert_eq!(web.cmd, Some(Command::Line("/usr/src/app/run.sh".into())));
    assert_eq!(web.volumes.len(), 1);
    assert_eq!((web.volumes[0].local.as_str(), web.volumes[0].path.as_str()), ("", "/usr/src/app"));
    assert_eq!(web.env, [("DEBUG".to_owned(), "1".to_owned())]);
    assert_eq!((web.web, web.ssl), (Some(5000), None));
    assert_eq!(web.wait, Some(Wait { at_most: Duration::from_secs(30), log: None }));
    assert_eq!(web.health, Some(Health { path: "/up".into(), timeout: Duration::from_secs(5) }));
    assert_eq!(web.entrypoint, Some(Command::Line("…".into())));
    assert_eq!(config.hosts, [("live".to_owned(), "app@203.0.113.5".parse().unwrap())]);
    assert_eq!(config.commands[0].0, "ship");
    assert_eq!(config.commands[0].1, ["mcloud sync . {host}", "mcloud restart {host}"]);
}

#[test]
fn the_envs_block_is_merged_in() {
    assert_eq!(with_env(EXAMPLE, "prod").services[1].env, [("DEBUG".to_owned(), "0".to_owned())]);
    assert_eq!(with_env(EXAMPLE, "other"), good(EXAMPLE));
    let text = "~prod: {web: {web: 80}, extra: {image: e}}\nweb:\n  image: a\n  cmd: x\n  env:\n    A: 1\n    ~prod: {B: 2, A: }\n    ~dev: {A: 9}\n  ~prod: {cmd: , build: app}\n";
    let config = with_env(text, "prod");
    assert_eq!(config.services.len(), 2);
    let web = &config.services[0];
    assert_eq!((web.web, &web.cmd), (Some(80), &None));
    assert_eq!(web.env, [("B".to_owned(), "2".to_owned())]);
    assert_eq!(web.origin, Origin::Build(LocalPath("app".into())));
    assert_eq!(with_env(text, "dev").services[0].env, [("A".to_owned(), "9".to_owned())]);
    bad("web: {image: a, ~prod: {imgae: b}}\n", 1, 25, "(with env `prod`)", "did you mean `image`");
    bad("web: {image: a, ~prod: 5}\n", 1, 24, "`~prod` has text in it", "~prod: {env");
}

#[test]
fn a_service_extends_another() {
    let text = "b: {extend: a, env: {Y: 2}, data: [/b], dockerfile: 'FROM x'}\na: {image: i, env: {X: 1}, data: [/a], web: 80}\nc: {extend: b, web: 81}\n";
    let config = good(text);
    let b = &config.services[0];
    assert_eq!(b.origin, Origin::Dockerfile("FROM x".into()));
    assert_eq!(b.env, [("X".to_owned(), "1".to_owned()), ("Y".to_owned(), "2".to_owned())]);
    assert_eq!(b.data, [VolumePath::new("/b").unwrap()]);
    assert_eq!((b.web, config.services[2].web), (Some(80), Some(81)));
    assert_eq!(config.services[2].env, b.env);
    bad("a: {extend: b}\nb: {extend: a}\n", 2, 13, "in a circle: a → b → a", "");
    bad("a: {extend: a}\n", 1, 13, "in a circle", "");
    bad("redis: {image: r}\nb: {extend: reids}\n", 2, 13, "no such service", "`redis`");
    bad("b: {extend: [x]}\n", 1, 13, "this is a list", "");
}

#[test]
fn every_form_of_a_value() {
    let service = |text: &str| good(&format!("s:\n  image: i\n  {text}\n")).services.remove(0);
    let wait = |text: &str| service(&format!("wait: {text}")).wait.unwrap();
    assert_eq!(
        wait("'30s for \"text in the log\"'"),
        Wait { at_most: Duration::from_secs(30), log: Some("text in the log".into()) }
    );
    assert_eq!(wait("2m").at_most, Duration::from_secs(120));
    assert_eq!(wait("'5'"), Wait { at_most: Duration::from_secs(5), log: None });
    assert_eq!(service("cmd: [run, 'a b', 3]").cmd, Some(Command::Words(vec!["run".into(), "a b".into(), "3".into()])));
    assert_eq!(service("workdir: /srv").workdir.as_deref(), Some("/srv"));
    assert_eq!(service("ssl: '8443'").ssl, Some(8443));
    assert_eq!(service("env: {A: true, B: 1.50, C: '', D: 007}").env[1].1, "1.50");
    assert_eq!(service("volumes: {./a/../b//c: /x/}").volumes[0].local.as_str(), "b/c");
    assert_eq!(good("s:\n  build: .\n").services[0].origin, Origin::Build(LocalPath(String::new())));
    let source = "s:\n  dockerfile: |\n    FROM redis\n    RUN true\n";
    assert_eq!(good(source).services[0].origin, Origin::Dockerfile("FROM redis\nRUN true\n".into()));
    let aliased = "a: &base {image: i, env: &e {X: 1}}\nb: {image: j, env: *e}\n";
    assert_eq!(good(aliased).services[1].env.len(), 1);
}

#[test]
fn mistakes_are_shown_with_their_place_and_what_was_meant() {
    bad("web:\n    imgae: redis\n", 2, 5, "unknown key `imgae` in the service `web`", "did you mean `image`?");
    bad("web:\n    image: a\n    environment: {A: 1}\n", 3, 5, "unknown key", "the key is `env`");
    bad("web:\n    image: a\n    ports: ['80:80']\n", 3, 5, "unknown key", "`web`");
    bad("web:\n  image: a\n  web: '80:5000'\n", 3, 8, "not one", "`web: 5000`");
    bad("web:\n  image: a\n  web: 0\n", 3, 8, "not one", "1 to 65535");
    bad("web:\n  image: a\n  env: [A=1]\n", 3, 8, "this is a list", "A: \"1\"");
    bad("web:\n  image: a\n  data: /data\n", 3, 9, "a list", "data: [/data]");
    bad("web:\n  image: a\n  data: [data]\n", 3, 10, "not an absolute path", "/data");
    bad("web:\n  image: a\n  data: ['/data:ro']\n", 3, 10, "has a `:`", "write /data");
    bad("web:\n  image: a\n  data: [/d]\n  volumes: {.: /d}\n", 3, 3, "a volume twice", "one or the other");
    bad("web:\n  image: a\n  volumes: ['.:/app']\n", 3, 12, "this is a list", "{.: /usr/src/app}");
    bad("web:\n  image: a\n  health: {path: up}\n  web: 1\n", 3, 18, "not the path", "/up");
    bad("web:\n  image: a\n  health: {path: /up}\n", 3, 3, "no port", "web: 5000");
    bad("web:\n  image: a\n  health: {pth: /up}\n", 3, 12, "unknown key `pth`", "`path`");
    bad("web:\n  image: a\n  wait: soon\n", 3, 9, "`soon` is not", "wait: 30");
    bad("web:\n  image: a\n  wait: 30s for ready\n", 3, 9, "not in quotes", "text in the log");
    bad("web:\n  image: a\n  wait: 999999999999999999999\n", 3, 9, "is not", "wait: 30");
    bad("web:\n  image: a\n  build: b\n", 3, 3, "both `image` and `build`", "one of");
    bad("web:\n  cmd: x\n", 1, 1, "has no image", "build: DIR");
    bad("web:\n  image: 'a b'\n", 2, 10, "not the name of an image", "python:3.12");
    bad("web:\n  dockerfile: ./Dockerfile\n", 2, 15, "not one", "build: DIR");
    bad("web:\n  image: {a: b}\n", 2, 10, "this is a mapping", "");
    bad("version: '3'\nservices: {}\n", 1, 1, "has text in it", "compose");
    bad("web:\n", 1, 1, "nothing in it", "web: {image: NAME}");
    bad("my web: {image: a}\n", 1, 1, "has a space", "`my-web`");
    bad("web: {image: a}\nweb: {image: b}\n", 2, 1, "here twice", "line 1");
    bad("web:\n  image: a\n  snapshot: {befor: x}\n", 3, 14, "unknown key", "`before`");
    bad("web:\n  image: a\n  snapshot: {timeout: 0}\n", 3, 23, "number of seconds", "timeout: 60");
    bad("[a, b]\n", 1, 1, "found a list", "each top-level key");
    bad("web: {image: a}\n---\nb: {image: c}\n", 2, 1, "second YAML document", "\"---\"");
    bad("web: {image: a}\n\"---\": {host: {}}\n", 2, 9, "unknown key `host`", "`hosts`");
    bad("web: {image: a}\n\"---\": {hosts: {live: app}}\n", 2, 23, "no address", "app@ADDRESS");
    bad("web: {image: a}\n\"---\": {hosts: {live: 'a b@c'}}\n", 2, 23, "has a space", "a-b");
    bad("web: {image: a}\n\"---\": {commands: {x: []}}\n", 2, 20, "no lines", "");
    let error = parse("", None).unwrap_err();
    assert!(error.message.contains("no service"));
    assert!(parse("web:\n\timage: a\n", None).unwrap_err().message.contains("line 2"));
    assert!(parse("web: {image: a\n", None).unwrap_err().message.contains("not valid YAML"));
}

#[test]
fn paths_stay_inside_the_tenants_folder() {
    bad("web:\n  image: a\n  volumes: {'~/x': /x}\n", 3, 13, "not name an env", "stay inside");
    bad("web:\n  build: ~/x\n", 2, 10, "outside the tenant's folder", "stay inside");
    for path in ["..", "../x", "a/../../x", "/etc", "./../x"] {
        bad(
            &format!("web:\n  image: a\n  volumes: {{'{path}': /x}}\n"),
            3,
            13,
            "outside the tenant's folder",
            "stay inside",
        );
        bad(&format!("web:\n  build: '{path}'\n"), 2, 10, "outside the tenant's folder", "stay inside");
    }
}

#[test]
fn hostile_files_are_refused_at_once() {
    let started = std::time::Instant::now();
    assert!(parse(&"#".repeat(SIZE_MAX + 1), None).unwrap_err().message.contains("is the most"));
    assert!(parse(&"[".repeat(500_000), None).is_err());
    assert!(parse(&"[".repeat(100), None).unwrap_err().message.contains("deeper"));
    assert!(parse(&"{a: ".repeat(200_000), None).is_err());
    let mut laughs = String::from("a0: &a0 {x: lol}\n");
    for i in 1..40 {
        let previous = format!("*a{}", i - 1);
        laughs.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 9].join(",")));
    }
    let message = parse(&laughs, None).unwrap_err().message;
    assert!(message.contains("more than") || message.contains("deeper"), "{message}");
    assert!(parse("a: &a [*a]\n", None).is_err());
    let many: String = (0..60_000).map(|i| format!("s{i}: {{}}\n")).collect();
    assert!(parse(&many, None).is_err());
    let envs: String = (0..40).map(|i| format!("~e{i}: {{a: {{image: x}}}}\n")).collect();
    assert!(parse(&format!("a: {{image: x}}\n{envs}"), None).unwrap_err().message.contains("different `~env`"));
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
}

/// What serde_yaml makes of the text, in our nodes, without places: an independent reading.
fn same(node: &yaml::Node, value: &serde_yaml::Value) -> bool {
    use serde_yaml::Value as V;
    match (&node.value, value) {
        (yaml::Value::Null, V::Null) => true,
        (yaml::Value::Text(text), V::String(other)) => text == other,
        (yaml::Value::Text(_), V::Bool(_) | V::Number(_)) => true,
        (yaml::Value::List(list), V::Sequence(other)) => {
            list.len() == other.len() && list.iter().zip(other).all(|(a, b)| same(a, b))
        }
        (yaml::Value::Map(entries), V::Mapping(other)) => {
            entries.len() == other.len()
                && entries
                    .iter()
                    .zip(other)
                    .all(|(a, (key, value))| key.as_str().is_none_or(|key| key == a.key) && same(&a.value, value))
        }
        _ => false,
    }
}

#[test]
fn serde_yaml_reads_the_example_in_the_same_way() {
    assert!(same(&yaml::parse(EXAMPLE).unwrap(), &serde_yaml::from_str(EXAMPLE).unwrap()));
}

fn value() -> impl Strategy<Value = serde_yaml::Value> {
    let leaf = prop_oneof![
        Just(serde_yaml::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        "[ -~é\n]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_yaml::Value::Sequence),
            proptest::collection::btree_map("[a-z~.-]{1,6}", inner, 0..4)
                .prop_map(|map| { serde_yaml::Value::Mapping(map.into_iter().map(|(k, v)| (k.into(), v)).collect()) }),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_yaml_writes_is_read_as_it_was_meant(value in value()) {
        let text = serde_yaml::to_string(&value).unwrap();
        match yaml::parse(&text) {
            Ok(node) => prop_assert!(same(&node, &value), "{text}\n{node:?}"),
            Err(error) => prop_assert!(error.message.contains("key"), "{text}\n{}", error.message),
        }
    }

    #[test]
    fn whatever_the_text_it_is_a_config_or_an_error_without_control_characters(
        text in "([a-z~]{0,4}: ?|\\[|\\]|\\{|\\}|, |\n|\n  |- |&a |\\*a |\"|'|[ -~]{0,6}|\u{1b}){0,24}",
    ) {
        if let Err(error) = parse(&text, Some("a")) {
            let shown = format!("{}{}", error.message, error.hint.unwrap_or_default());
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}
