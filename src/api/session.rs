//! A session: what the broker knows of one client connection. Made at accept, owned by the
//! connection, and shown to every handler.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;

use crate::security::Principal;
use crate::types::ListenerName;

/// See the module's header. The facts that requests change (who the client is, which software it
/// runs, until when it is muted) are changed in place, so that a request carries no copy of them.
#[derive(Debug)]
pub struct Session {
    listener: ListenerName,
    peer: SocketAddr,
    local: SocketAddr,
    identity: ArcSwap<Identity>,
    software: ArcSwapOption<ClientSoftware>,
    throttle: Throttle,
}

/// Who the client is, and how far that is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whom the client acts for.
    pub principal: Principal,
    /// Whether it has proven that.
    pub authentication: Authentication,
}

impl Identity {
    /// Whether the client must authenticate before it may ask for anything else.
    pub fn must_authenticate(&self, now: Instant) -> bool {
        match self.authentication {
            Authentication::NotRequired | Authentication::Given { expires: None } => false,
            Authentication::Awaited => true,
            Authentication::Given { expires: Some(expires) } => expires <= now,
        }
    }
}

/// How far a connection has come with proving who its client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The listener asks for none: every client is [`Principal::ANONYMOUS`].
    NotRequired,
    /// It is asked for and has not been given: only the APIs that the table marks
    /// `Api::before_authentication` are served.
    Awaited,
    /// It was given, and holds until `expires`, if that is set (KIP-368).
    Given {
        /// When the client must have authenticated again.
        expires: Option<Instant>,
    },
}

/// What a client says it runs, from ApiVersions v3 on (KIP-511).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSoftware {
    /// `client.software.name`, such as `librdkafka`; at most `SOFTWARE_BYTES_MAX` bytes of it.
    pub name: Box<str>,
    /// `client.software.version`, to the same bound.
    pub version: Box<str>,
}

impl fmt::Display for ClientSoftware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A client may send a name of megabytes, and each session keeps one.
const SOFTWARE_BYTES_MAX: usize = 128;

impl Session {
    /// The session of a connection to a plaintext listener.
    pub fn plaintext(listener: ListenerName, peer: SocketAddr, local: SocketAddr) -> Session {
        Session {
            listener,
            peer: canonical(peer),
            local: canonical(local),
            identity: ArcSwap::from_pointee(Identity {
                principal: Principal::ANONYMOUS,
                authentication: Authentication::NotRequired,
            }),
            software: ArcSwapOption::empty(),
            throttle: Throttle::default(),
        }
    }

    /// The listener that accepted the connection.
    pub fn listener(&self) -> &ListenerName {
        &self.listener
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The broker's own address on this connection.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The client's address as Kafka shows it in group descriptions: `/127.0.0.1`.
    pub fn client_host(&self) -> String {
        format!("/{}", self.peer.ip())
    }

    /// Who the client is now. An authentication changes it for the requests that begin afterwards.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Takes the client for `identity` from now on.
    pub fn identify(&self, identity: Identity) {
        self.identity.store(Arc::new(identity));
    }

    /// Whether the client must authenticate before it may ask for anything else.
    pub fn must_authenticate(&self, now: Instant) -> bool {
        self.identity.load().must_authenticate(now)
    }

    /// What the client runs, if it has said so.
    pub fn software(&self) -> Option<Arc<ClientSoftware>> {
        self.software.load_full()
    }

    /// Notes what the client says it runs.
    pub(super) fn note_software(&self, name: &str, version: &str) {
        let kept = |text: &str| text.get(..SOFTWARE_BYTES_MAX).unwrap_or(text).into();
        let software = ClientSoftware { name: kept(name), version: kept(version) };
        self.software.store(Some(Arc::new(software)));
    }

    /// Until when the connection is muted.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }
}

/// IPv4 clients of an IPv6 socket come as `::ffff:127.0.0.1`; Java shows `127.0.0.1`.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(v6.ip().to_canonical(), v6.port())
        }
        other => other,
    }
}

/// The longest time that an answer's `throttle_time_ms` can tell.
const MUTED_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// Until when no further request of a connection is read (KIP-219): its client was told a throttle
/// time, and one that does not keep to it is made to wait.
#[derive(Debug)]
pub struct Throttle {
    since: Instant,
    /// Milliseconds after `since`.
    muted_until_ms: AtomicU64,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { since: Instant::now(), muted_until_ms: AtomicU64::new(0) }
    }
}

impl Throttle {
    /// Mutes the connection for `time` from `now` on, or leaves it muted for longer.
    pub fn mute(&self, now: Instant, time: Duration) {
        let until = (now.duration_since(self.since) + time.min(MUTED_MAX)).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.muted_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// When the connection may be read again, if that is not `now`.
    pub fn muted_until(&self, now: Instant) -> Option<Instant> {
        let until_ms = self.muted_until_ms.load(Ordering::Relaxed);
        Some(self.since + Duration::from_millis(until_ms)).filter(|until| *until > now)
    }

    /// How long the connection is still muted. Without a look at the clock if it never was, as by far
    /// most are not.
    pub fn time_left(&self) -> Option<Duration> {
        if self.muted_until_ms.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = Instant::now();
        self.muted_until(now).map(|until| until - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        Session::plaintext(ListenerName::plaintext(), address, address)
    }

    #[test]
    fn a_plaintext_client_is_anonymous_and_need_not_authenticate() {
        let session = session();
        assert_eq!(session.identity().principal, Principal::ANONYMOUS);
        assert!(!session.must_authenticate(Instant::now()));
    }

    #[test]
    fn an_authentication_that_has_expired_must_be_given_again() {
        let (session, now) = (session(), Instant::now());
        let identify = |authentication| {
            session.identify(Identity { principal: Principal::user("alice"), authentication });
        };
        identify(Authentication::Awaited);
        assert!(session.must_authenticate(now));
        let expires = Some(now + Duration::from_secs(1));
        identify(Authentication::Given { expires });
        assert!(!session.must_authenticate(now));
        assert!(session.must_authenticate(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_shorter_mute_does_not_end_a_longer_one() {
        let (session, now) = (session(), Instant::now());
        let throttle = session.throttle();
        assert_eq!(throttle.muted_until(now), None);
        throttle.mute(now, Duration::from_secs(2));
        throttle.mute(now, Duration::from_secs(1));
        assert!(throttle.muted_until(now + Duration::from_millis(1_500)).is_some());
        assert_eq!(throttle.muted_until(now + Duration::from_secs(2)), None);
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_shown_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
        let session = Session::plaintext(ListenerName::plaintext(), mapped, mapped);
        assert_eq!(session.client_host(), "/10.0.0.1");
    }

    #[test]
    fn a_software_name_without_end_is_kept_only_in_part() {
        let session = session();
        session.note_software(&"x".repeat(1 << 20), "1");
        assert_eq!(session.software().unwrap().name.len(), SOFTWARE_BYTES_MAX);
    }
}
