//! How the group APIs speak of members: empty strings and -1 become `None` here.

use kafka_protocol::protocol::StrBytes;

use crate::group::MemberRef;
use crate::types::Generation;

/// `None` for the empty string.
pub(super) fn non_empty(text: &StrBytes) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// A nullable string; empty counts as null.
pub(super) fn nullable(text: &Option<StrBytes>) -> Option<String> {
    text.as_ref().and_then(non_empty)
}

/// Who acts, as the requests of a member say it.
pub(super) fn member_ref(
    member: &StrBytes,
    instance: &Option<StrBytes>,
    generation: i32,
) -> MemberRef {
    MemberRef {
        member: non_empty(member),
        instance: nullable(instance),
        generation: (generation >= 0).then_some(Generation(generation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_end_here() {
        let nobody = member_ref(&StrBytes::default(), &None, -1);
        assert_eq!(nobody, MemberRef::default());
        let somebody =
            member_ref(&StrBytes::from_static_str("m"), &Some(StrBytes::from_static_str("i")), 0);
        assert_eq!(somebody.member.as_deref(), Some("m"));
        assert_eq!(somebody.instance.as_deref(), Some("i"));
        assert_eq!(somebody.generation, Some(Generation(0)));
    }
}
