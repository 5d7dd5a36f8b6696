//! Every number has its default, and a bad one is told clearly.

use std::time::Duration;
use whit::{Config, Error, Origins, Server};

#[test]
fn a_bad_value_is_named_with_its_field_and_its_rule() {
    let config = Config::new;
    let zero = Duration::ZERO;
    let year = Duration::from_secs(400 * 24 * 60 * 60);
    let cases: &[(Config, &str)] = &[
        (config().max_connections(0), "max_connections is 0: "),
        (
            config().max_connections_per_ip(0),
            "max_connections_per_ip is 0: ",
        ),
        (config().max_head_bytes(100), "max_head_bytes is 100: "),
        (
            config().max_message_bytes(0),
            "max_message_bytes is 0: a message needs room for at least 1 byte, and gets at most 1 GiB",
        ),
        (
            config().memory_budget_bytes(1000),
            "memory_budget_bytes is 1000: a budget is at least 1 MiB",
        ),
        (
            config().max_message_bytes(8 << 20),
            "memory_budget_bytes is 33554432: ",
        ),
        (config().max_fragments(0), "max_fragments is 0: "),
        (
            config().max_message_bytes(usize::MAX),
            "max_message_bytes is ",
        ),
        (
            config().outbound_capacity(usize::MAX),
            "outbound_capacity is ",
        ),
        (
            config().heartbeat(Duration::from_micros(1)),
            "heartbeat is 1us: a period is at least 10 ms",
        ),
        (config().inbound_capacity(0), "inbound_capacity is 0: "),
        (config().outbound_capacity(0), "outbound_capacity is 0: "),
        (
            config().handshake_timeout(zero),
            "handshake_timeout is 0s: ",
        ),
        (config().write_timeout(zero), "write_timeout is 0s: "),
        (config().ping_interval(zero), "ping_interval is 0s: "),
        (config().pong_timeout(zero), "pong_timeout is 0s: "),
        (config().heartbeat(zero), "heartbeat is 0s: "),
        (config().close_timeout(year), "close_timeout is 34560000s: "),
        (config().drain_timeout(Duration::MAX), "drain_timeout is "),
        (
            config().ping_interval(Duration::from_secs(5)),
            "pong_timeout is 10s: it may not be longer than ping_interval",
        ),
        (
            config().allow_origin("example.com"),
            "origins is \"example.com\": ",
        ),
        (
            config().allow_origin("https://example.com/"),
            "origins is \"https://example.com/\": ",
        ),
        (config().subprotocols(["a b"]), "subprotocols is \"a b\": "),
        (
            config().subprotocols(["a", "a"]),
            "subprotocols is \"a\": each name stands once",
        ),
    ];
    for (config, message) in cases {
        let error = Server::new().config(config.clone()).check().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().starts_with(message), "{error}");
    }
    assert!(
        config()
            .ping_interval(None)
            .pong_timeout(year / 2)
            .check()
            .is_ok()
    );
    assert!(config().check().is_ok());
}

#[test]
fn a_bad_path_is_named() {
    let server = Server::new().page("index", |_| whit::Response::text(""));
    assert_eq!(
        server.check().unwrap_err().to_string(),
        "path \"index\": a path begins with /"
    );
}

#[test]
fn allowed_origins_add_up() {
    let some = Config::new()
        .allow_origin("http://a")
        .allow_origin("http://b");
    assert_eq!(
        some.origins,
        Origins::Also(vec!["http://a".into(), "http://b".into()])
    );
    assert_eq!(
        some.allow_any_origin().allow_origin("http://c").origins,
        Origins::Any
    );
}

/// The README's table has a row `| field | default | ...` for each field.
#[test]
fn the_defaults_are_those_of_the_readme() {
    let config = Config::new();
    let bytes = |bytes: usize| match bytes {
        whole if whole % (1024 * 1024) == 0 => format!("{} MiB", whole / 1024 / 1024),
        whole if whole % 1024 == 0 => format!("{} KiB", whole / 1024),
        bytes => bytes.to_string(),
    };
    let time = |time: Duration| format!("{} s", time.as_secs());
    let optional = |text: Option<String>| text.unwrap_or_else(|| "off".into());
    fn none<T>(list: &[T]) -> String {
        if list.is_empty() { "none" } else { "some" }.into()
    }
    let expected = [
        ("max_connections", config.max_connections.to_string()),
        (
            "max_connections_per_ip",
            optional(config.max_connections_per_ip.map(|count| count.to_string())),
        ),
        ("memory_budget_bytes", bytes(config.memory_budget_bytes)),
        ("handshake_timeout", time(config.handshake_timeout)),
        ("max_head_bytes", bytes(config.max_head_bytes)),
        ("max_message_bytes", bytes(config.max_message_bytes)),
        ("max_fragments", config.max_fragments.to_string()),
        (
            "max_control_frames_per_second",
            config.max_control_frames_per_second.to_string(),
        ),
        ("inbound_capacity", config.inbound_capacity.to_string()),
        ("outbound_capacity", config.outbound_capacity.to_string()),
        ("write_timeout", time(config.write_timeout)),
        ("ping_interval", optional(config.ping_interval.map(time))),
        ("pong_timeout", time(config.pong_timeout)),
        ("idle_timeout", optional(config.idle_timeout.map(time))),
        ("heartbeat", optional(config.heartbeat.map(time))),
        ("close_timeout", time(config.close_timeout)),
        ("drain_timeout", time(config.drain_timeout)),
        ("origins", format!("{:?}", config.origins)),
        ("subprotocols", none(&config.subprotocols)),
        ("trusted_proxies", none(&config.trusted_proxies)),
    ];
    let readme = include_str!("../README.md");
    let rows: Vec<(&str, &str)> = readme
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((
                cells.next()?.trim().trim_end_matches('`'),
                cells.next()?.trim().trim_matches('`'),
            ))
        })
        .collect();
    for (field, default) in &expected {
        let row = rows.iter().find(|(name, _)| name == field);
        assert_eq!(
            row.map(|(_, text)| *text),
            Some(default.as_str()),
            "{field}"
        );
    }
    // No field is left out here: the debug text has each of them on a line of its own.
    let text = format!("{config:#?}");
    let fields = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_alphabetic));
    assert_eq!(fields.count(), expected.len());
}
