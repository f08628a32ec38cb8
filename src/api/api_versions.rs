//! ApiVersions (key 18), v0-4: which APIs are served, in which versions.
//!
//! An unknown version is answered with error 35 in the v0 format with the whole list, so that
//! clients retry lower (KIP-511). The response header is never flexible. From v3 on it tells the
//! finalized features (KIP-584) with the journal's position of their last change. While no feature has
//! a level, their tags keep their defaults and are left out: librdkafka before 2.2 misreads them.
//! Gaps: no feature is supported yet.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::call::{Api, Call, Outcome, Reply};
use super::table::ROUTES;
use super::{Context, Later, Request, wire_text};
use crate::metadata::{Features, SUPPORTED_FEATURES};

pub(super) const API: Api =
    Api::ordered(ApiKey::ApiVersions, 0..=4).urgent().before_authentication();

impl Outcome for ApiVersionsResponse {
    fn error(&self) -> i16 {
        self.error_code
    }
}

pub(super) async fn handle(
    ctx: &Context,
    request: &Request,
    body: ApiVersionsRequest,
) -> ApiVersionsResponse {
    let (software, version) = (&body.client_software_name, &body.client_software_version);
    if request.version >= 3 {
        if !is_software_name(software) || !is_software_name(version) {
            return ApiVersionsResponse::default()
                .with_error_code(ResponseError::InvalidRequest.code());
        }
        request.session.note_software(software, version);
    }
    let (peer, client_id) = (request.session.peer(), &request.client_id);
    tracing::debug!(%peer, %client_id, %software, %version, "client asks for the api versions");
    let response = ApiVersionsResponse::default().with_api_keys(served());
    if request.version >= 3 { with_features(response, &ctx.features()) } else { response }
}

fn with_features(response: ApiVersionsResponse, features: &Features) -> ApiVersionsResponse {
    let supported = SUPPORTED_FEATURES.iter().map(|feature| {
        SupportedFeatureKey::default()
            .with_name(wire_text(feature.name))
            .with_min_version(feature.level_min)
            .with_max_version(feature.level_max)
    });
    let finalized = features.levels().map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(wire_text(name))
            .with_min_version_level(level)
            .with_max_version_level(level)
    });
    let none = response.finalized_features_epoch;
    let epoch = features.epoch().map_or(none, |position| position as i64);
    response
        .with_supported_features(supported.collect())
        .with_finalized_features(finalized.collect())
        .with_finalized_features_epoch(epoch)
}

/// The answer to a version that is not served.
pub(super) fn unsupported(call: Call) -> Later<Reply> {
    let response = ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(served());
    Box::pin(async move { call.answer(&response) })
}

fn served() -> Vec<ApiVersion> {
    let shown = ROUTES.iter().map(|route| {
        ApiVersion::default()
            .with_api_key(route.api.key as i16)
            .with_min_version(route.api.advertised_min)
            .with_max_version(*route.api.versions.end())
    });
    shown.collect()
}

/// KIP-511: letters, digits, `-` and `.`, beginning and ending with a letter or digit.
fn is_software_name(text: &str) -> bool {
    let text = text.as_bytes();
    text.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
        && text.first().is_some_and(u8::is_ascii_alphanumeric)
        && text.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::api::tests::fixture::{Bench, chunks, decode, frame};

    fn asked() -> ApiVersionsRequest {
        ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("test"))
            .with_client_software_version(StrBytes::from_static_str("1"))
    }

    #[tokio::test]
    async fn every_version_lists_what_is_served() {
        let bench = Bench::start().await;
        for version in 0..=4 {
            let body = if version >= 3 { asked() } else { ApiVersionsRequest::default() };
            let answer = bench.call(version, body).await;
            assert_eq!(answer.error_code, 0);
            assert_eq!(answer.api_keys.len(), ROUTES.len());
            let produce = &answer.api_keys[0];
            assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 13));
        }
    }

    #[test]
    fn finalized_features_are_told_with_their_epoch_and_no_tags_without_any() {
        let none = with_features(ApiVersionsResponse::default(), &Features::default());
        assert_eq!(none, ApiVersionsResponse::default());
        let features = Features::of(&[("group.version", 1)], 42);
        let told = with_features(ApiVersionsResponse::default(), &features);
        assert_eq!(told.finalized_features_epoch, 42);
        let [feature] = told.finalized_features.as_slice() else { panic!("{told:?}") };
        assert_eq!(feature.name.as_str(), "group.version");
        assert_eq!((feature.min_version_level, feature.max_version_level), (1, 1));
    }

    #[tokio::test]
    async fn unknown_version_is_answered_in_v0_with_the_whole_list() {
        let bench = Bench::start().await;
        // A version of the future: key 18, version 99, correlation 77, then what we cannot know.
        let mut future = frame(0, &ApiVersionsRequest::default()).to_vec();
        future[2..4].copy_from_slice(&99i16.to_be_bytes());
        future.extend_from_slice(&[0, 5, 1, 2, 3]);
        let begun = crate::api::begin(&bench.ctx, &bench.session, future.into()).await.unwrap();
        let chunks = chunks(begun.into_pending().1.await);
        let answer: ApiVersionsResponse = decode(0, chunks);
        assert_eq!((answer.error_code, answer.api_keys.len()), (35, ROUTES.len()));
    }

    #[tokio::test]
    async fn client_that_does_not_name_itself_is_refused() {
        let bench = Bench::start().await;
        let nameless = asked().with_client_software_name(StrBytes::from_static_str("a b"));
        assert_eq!(bench.call(3, nameless).await.error_code, 42);
    }

    #[tokio::test]
    async fn the_session_knows_the_software_that_the_client_named() {
        let bench = Bench::start().await;
        bench.call(2, ApiVersionsRequest::default()).await;
        assert_eq!(bench.session.software(), None);
        bench.call(3, asked()).await;
        let known = bench.session.software().unwrap();
        assert_eq!((&*known.name, &*known.version), ("test", "1"));
        let nameless = asked().with_client_software_name(StrBytes::from_static_str("a b"));
        bench.call(3, nameless).await;
        assert_eq!(bench.session.software(), Some(known), "a refused name is not taken");
    }

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["apache-kafka-java", "4.2.0", "a"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a\n"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
