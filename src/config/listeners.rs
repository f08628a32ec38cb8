//! Listeners, in Kafka's words: where the broker listens, and what it tells the clients of each
//! listener to connect to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Config, ConfigError};
use crate::types::ListenerName;

/// A listener with everything that the config says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What its clients are told to connect to; `None` if `advertised.listeners` leaves it out.
    pub advertised: Option<Advertised>,
    /// `listener.name.<name>.max.connections`.
    pub connections_max: Option<usize>,
}

/// What clients are told to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// `None` is the machine's name.
    pub host: Option<String>,
    /// `None` is the port that was bound.
    pub port: Option<u16>,
}

/// One `NAME://HOST:PORT` of `listeners` or `advertised.listeners`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub name: ListenerName,
    /// A host name or an address; empty is every address of the machine.
    pub host: String,
    /// 0 is any free port.
    pub port: u16,
}

/// How the clients of a listener speak (`listener.security.protocol.map`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Without TLS and authentication.
    Plaintext,
    /// TLS.
    Ssl,
    /// Authentication without TLS.
    SaslPlaintext,
    /// Authentication and TLS.
    SaslSsl,
}

impl Endpoint {
    /// The listener that `kafka.listen` stands for.
    pub(super) fn plaintext(address: SocketAddr) -> Endpoint {
        let (name, host) = (ListenerName::plaintext(), address.ip().to_string());
        Endpoint { name, host, port: address.port() }
    }

    /// `NAME://HOST:PORT` as Kafka reads it; an IPv6 address may stand in brackets.
    fn parse(text: &str) -> Option<Endpoint> {
        let (name, address) = text.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']')?,
            None => host,
        };
        let name = ListenerName::parse(name).ok()?;
        let port = port.parse().ok()?;
        is_host(host).then(|| Endpoint { name, host: host.to_owned(), port })
    }

    /// The host, unless it is every address of the machine.
    pub fn named_host(&self) -> Option<&str> {
        let is_every = self.ip().is_some_and(|ip| ip.is_unspecified());
        (!self.host.is_empty() && !is_every).then_some(&*self.host)
    }

    /// The host, if it is an address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `HOST:PORT`, with brackets where the host is an IPv6 address.
    pub fn address(&self) -> String {
        let Endpoint { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Kafka's characters of a host; what has a colon must be an IPv6 address, be it with a zone.
fn is_host(host: &str) -> bool {
    if host.contains(':') {
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.address())
    }
}

/// Parses `NAME://HOST:PORT,…`; `None` if it is empty or one of them is no endpoint.
pub(super) fn parse_endpoints(text: &str) -> Option<Vec<Endpoint>> {
    text.split(',').map(|entry| Endpoint::parse(entry.trim())).collect()
}

/// The text of which `parse_endpoints` makes these.
pub(super) fn render_endpoints(endpoints: &[Endpoint]) -> String {
    let texts: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
    texts.join(",")
}

impl SecurityProtocol {
    const ALL: [SecurityProtocol; 4] = [
        SecurityProtocol::Plaintext,
        SecurityProtocol::Ssl,
        SecurityProtocol::SaslPlaintext,
        SecurityProtocol::SaslSsl,
    ];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
            SecurityProtocol::Ssl => "SSL",
            SecurityProtocol::SaslPlaintext => "SASL_PLAINTEXT",
            SecurityProtocol::SaslSsl => "SASL_SSL",
        }
    }

    fn parse(text: &str) -> Option<SecurityProtocol> {
        SecurityProtocol::ALL.into_iter().find(|protocol| protocol.name() == text)
    }
}

/// The protocol of each listener's name.
pub(super) type ProtocolMap = BTreeMap<ListenerName, SecurityProtocol>;

/// Kafka's default: each protocol is the name of a listener that speaks it.
pub(super) fn default_protocols() -> ProtocolMap {
    let own_name = |protocol: SecurityProtocol| Some((protocol.name(), protocol));
    let named = SecurityProtocol::ALL.into_iter().filter_map(own_name);
    named.filter_map(|(name, protocol)| Some((ListenerName::parse(name).ok()?, protocol))).collect()
}

/// Parses `NAME:PROTOCOL,…`; `None` for an unknown protocol or a name that stands there twice.
pub(super) fn parse_protocols(text: &str) -> Option<ProtocolMap> {
    let mut protocols = ProtocolMap::new();
    for entry in text.split(',').map(str::trim) {
        let (name, protocol) = entry.rsplit_once(':')?;
        let name = ListenerName::parse(name.trim()).ok()?;
        let protocol = SecurityProtocol::parse(protocol.trim())?;
        if protocols.insert(name, protocol).is_some() {
            return None;
        }
    }
    Some(protocols)
}

/// The text of which `parse_protocols` makes these.
pub(super) fn render_protocols(protocols: &ProtocolMap) -> String {
    let pair = |(name, protocol): (_, &SecurityProtocol)| format!("{name}:{}", protocol.name());
    let pairs: Vec<String> = protocols.iter().map(pair).collect();
    pairs.join(",")
}

/// The listeners of a config; or why there can be none such.
pub(super) fn resolve(config: &Config) -> Result<Vec<Listener>, ConfigError> {
    let listeners = &config.listeners;
    names_differ("listeners", listeners)?;
    ports_differ(listeners)?;
    for listener in listeners {
        speaks_plaintext(listener, &config.listener_protocols)?;
    }
    let is_known = |name: &ListenerName| listeners.iter().any(|listener| listener.name == *name);
    if let Some(name) = config.listener_connections_max.keys().find(|name| !is_known(name)) {
        return Err(contradiction(format!(
            "config 'listener.name.{}.max.connections' is of a listener that 'listeners' ({}) does \
             not have; name one of them",
            name.as_str().to_ascii_lowercase(),
            render_endpoints(listeners)
        )));
    }
    if let Some(advertised) = &config.advertised_listeners {
        names_differ("advertised.listeners", advertised)?;
        for endpoint in advertised {
            can_be_advertised(endpoint, listeners)?;
        }
    }
    let resolved = listeners.iter().map(|endpoint| Listener {
        name: endpoint.name.clone(),
        endpoint: endpoint.clone(),
        advertised: advertised(config, endpoint),
        connections_max: config.listener_connections_max.get(&endpoint.name).copied(),
    });
    Ok(resolved.collect())
}

fn advertised(config: &Config, listener: &Endpoint) -> Option<Advertised> {
    if let Some(endpoints) = &config.advertised_listeners {
        let told = endpoints.iter().find(|endpoint| endpoint.name == listener.name)?;
        let port = Some(told.port).filter(|port| *port != 0);
        return Some(Advertised { host: told.named_host().map(str::to_owned), port });
    }
    let host = config.advertised_host.as_deref().or(listener.named_host());
    Some(Advertised { host: host.map(str::to_owned), port: None })
}

fn contradiction(reason: String) -> ConfigError {
    ConfigError::Contradiction(reason)
}

fn names_differ(key: &str, endpoints: &[Endpoint]) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    match endpoints.iter().find(|endpoint| !seen.insert(&endpoint.name)) {
        None => Ok(()),
        Some(twice) => Err(contradiction(format!(
            "config '{key}' ({}) has the listener {} twice; give each a name of its own",
            render_endpoints(endpoints),
            twice.name
        ))),
    }
}

/// Each listener has a port of its own; but an IPv4 and an IPv6 address may share one (KIP-797).
fn ports_differ(listeners: &[Endpoint]) -> Result<(), ConfigError> {
    let mut by_port: BTreeMap<u16, Vec<&Endpoint>> = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| listener.port != 0) {
        by_port.entry(listener.port).or_default().push(listener);
    }
    for (port, sharing) in by_port {
        let may_share = match sharing.as_slice() {
            [_] => true,
            [one, other] => match (one.ip(), other.ip()) {
                (Some(one), Some(other)) => one.is_ipv4() != other.is_ipv4(),
                _ => false,
            },
            _ => false,
        };
        if !may_share {
            return Err(contradiction(format!(
                "config 'listeners' ({}) has port {port} more than once; give each listener a port \
                 of its own, unless one has an IPv4 and the other an IPv6 address",
                render_endpoints(listeners)
            )));
        }
    }
    Ok(())
}

fn speaks_plaintext(listener: &Endpoint, protocols: &ProtocolMap) -> Result<(), ConfigError> {
    let name = &listener.name;
    let missing = match protocols.get(name) {
        Some(SecurityProtocol::Plaintext) => return Ok(()),
        None => {
            return Err(contradiction(format!(
                "config 'listener.security.protocol.map' says nothing of the listener {name}; add \
                 {name}:PLAINTEXT to it"
            )));
        }
        Some(SecurityProtocol::Ssl) => "there is no TLS yet",
        Some(SecurityProtocol::SaslPlaintext) => "there is no authentication yet",
        Some(SecurityProtocol::SaslSsl) => "there is no TLS and no authentication yet",
    };
    let protocol = protocols.get(name).map_or("", |protocol| protocol.name());
    Err(contradiction(format!(
        "config 'listeners' has the listener {name}, which 'listener.security.protocol.map' makes \
         {protocol}: {missing}; leave the listener out, or map its name to PLAINTEXT"
    )))
}

fn can_be_advertised(endpoint: &Endpoint, listeners: &[Endpoint]) -> Result<(), ConfigError> {
    if !listeners.iter().any(|listener| listener.name == endpoint.name) {
        return Err(contradiction(format!(
            "config 'advertised.listeners' has the listener {}, which 'listeners' ({}) does not \
             have; use the same names in both",
            endpoint.name,
            render_endpoints(listeners)
        )));
    }
    if endpoint.ip().is_some_and(|ip| ip.is_unspecified()) {
        return Err(contradiction(format!(
            "config 'advertised.listeners' cannot have '{endpoint}': no client can connect to {}; \
             name the host as clients see it, for example {}://{}:{}",
            endpoint.host,
            endpoint.name,
            Ipv4Addr::new(192, 168, 1, 10),
            endpoint.port
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn load(settings: &[&str]) -> Result<Config, String> {
        let mut sources = Sources::default();
        settings.iter().for_each(|setting| sources.set(setting).unwrap());
        Config::load(&sources).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_read_as_kafka_reads_them() {
        for (text, host, port) in [
            ("PLAINTEXT://:9092", "", 9092),
            ("plaintext://0.0.0.0:0", "0.0.0.0", 0),
            ("PLAINTEXT://[::1]:9092", "::1", 9092),
            ("PLAINTEXT://::1:9092", "::1", 9092),
            ("PLAINTEXT://[fe80::1%eth0]:9092", "fe80::1%eth0", 9092),
            ("PLAINTEXT://broker_1.example-2.com:9092", "broker_1.example-2.com", 9092),
        ] {
            let name = ListenerName::plaintext();
            let expected = Endpoint { name, host: host.to_owned(), port };
            assert_eq!(Endpoint::parse(text), Some(expected.clone()), "{text}");
            assert_eq!(parse_endpoints(&expected.to_string()), Some(vec![expected]), "{text}");
        }
        for wrong in [
            "",
            ",",
            "PLAINTEXT://h:1,",
            "PLAINTEXT://h",
            "PLAINTEXT:h:1",
            "://h:1",
            "A B://h:1",
            "PLAINTEXT://h:65536",
            "PLAINTEXT://h:-1",
            "PLAINTEXT://h/:1",
            "PLAINTEXT://[::1:1",
            "PLAINTEXT://a:b:1",
        ] {
            assert_eq!(parse_endpoints(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_listener_has_a_name_and_a_port_of_its_own() {
        let map = "listener.security.protocol.map=A:PLAINTEXT,B:PLAINTEXT,C:PLAINTEXT";
        for good in ["A://127.0.0.1:9092,B://[::1]:9092", "A://:1,B://:2,C://:3", "A://:0,B://:0"] {
            assert!(load(&[map, &format!("listeners={good}")]).is_ok(), "{good}");
        }
        for (wrong, said) in [
            ("A://:1,a://:2", "has the listener A twice"),
            ("A://10.0.0.1:9092,B://10.0.0.2:9092", "has port 9092 more than once"),
            ("A://10.0.0.1:9092,B://localhost:9092", "has port 9092 more than once"),
            ("A://10.0.0.1:1,B://[::1]:1,C://[::2]:1", "has port 1 more than once"),
        ] {
            let refused = load(&[map, &format!("listeners={wrong}")]).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn protocols_that_are_not_offered_are_refused_by_name() {
        for (settings, said) in [
            (&["listeners=SSL://:9093"][..], "makes SSL: there is no TLS yet"),
            (
                &["listeners=A://:1", "listener.security.protocol.map=A:SASL_PLAINTEXT"],
                "makes SASL_PLAINTEXT: there is no authentication yet",
            ),
            (
                &["listeners=SASL_SSL://:1"],
                "makes SASL_SSL: there is no TLS and no authentication yet",
            ),
            (&["listeners=LAN://:1"], "says nothing of the listener LAN; add LAN:PLAINTEXT to it"),
            (&["listener.security.protocol.map=A:TLS"], "with protocols PLAINTEXT, SSL"),
            (&["listener.security.protocol.map=A:SSL,a:SSL"], "each name once"),
        ] {
            let refused = load(settings).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn what_is_advertised_must_be_a_listener_and_an_address_that_clients_can_reach() {
        for (advertised, said) in [
            ("LAN://h:1", "has the listener LAN, which 'listeners'"),
            ("PLAINTEXT://0.0.0.0:9092", "no client can connect to 0.0.0.0"),
            ("PLAINTEXT://[::]:9092", "no client can connect to ::"),
            ("PLAINTEXT://a:1,PLAINTEXT://b:2", "has the listener PLAINTEXT twice"),
        ] {
            let refused = load(&[&format!("advertised.listeners={advertised}")]).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn connections_are_limited_for_listeners_that_there_are() {
        let config = load(&["listener.name.plaintext.max.connections=5"]).unwrap();
        assert_eq!(config.kafka_listeners().unwrap()[0].connections_max, Some(5));
        for (setting, said) in [
            ("listener.name.lan.max.connections=5", "'listeners' (PLAINTEXT://127.0.0.1:9092)"),
            ("listener.name.plaintext.max.connections=0", "a whole number from 1"),
            ("listener.name.plaintext.ssl.keystore.location=x", "is not implemented yet"),
            ("listener.name.plaintext.max.connection.creation.rate=1", "is not implemented yet"),
        ] {
            let refused = load(&[setting]).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let variable = "OTTLA_LISTENER_NAME_PLAINTEXT_MAX_CONNECTIONS".to_owned();
        let environment = vec![(variable, "7".to_owned())];
        let config = Config::load(&Sources { environment, ..Sources::default() }).unwrap();
        assert_eq!(config.kafka_listeners().unwrap()[0].connections_max, Some(7));
    }

    #[test]
    fn short_keys_stand_for_kafkas_and_the_stronger_source_holds() {
        let config = load(&["kafka.listen=0.0.0.0:1", "advertised.host=h"]).unwrap();
        assert_eq!(config.text("listeners"), "PLAINTEXT://0.0.0.0:1");
        let told = config.kafka_listeners().unwrap()[0].advertised.clone();
        assert_eq!(told, Some(Advertised { host: Some("h".to_owned()), port: None }));

        let variables = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let mut sources = Sources {
            environment: variables(&[
                ("OTTLA_LISTENERS", "PLAINTEXT://:1"),
                ("OTTLA_ADVERTISED_LISTENERS", "PLAINTEXT://h:2"),
            ]),
            ..Sources::default()
        };
        sources.set("kafka.listen=127.0.0.1:3").unwrap();
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.text("listeners"), "PLAINTEXT://127.0.0.1:3");
        assert_eq!(config.text("advertised.listeners"), "PLAINTEXT://h:2");

        let mut sources = Sources {
            environment: variables(&[
                ("OTTLA_KAFKA_LISTEN", "127.0.0.1:3"),
                ("OTTLA_ADVERTISED_HOST", "h"),
            ]),
            ..Sources::default()
        };
        sources.set("listeners=PLAINTEXT://:1").unwrap();
        sources.set("advertised.listeners=PLAINTEXT://h:2").unwrap();
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.text("listeners"), "PLAINTEXT://:1");
        assert_eq!((config.kafka_listen, config.advertised_host), (None, None));

        let refused = load(&["kafka.listen=127.0.0.1:3", "listeners=PLAINTEXT://:1"]).unwrap_err();
        assert!(refused.contains("'kafka.listen' is set and so is 'listeners'"), "{refused}");
    }
}
