//! The coordinator over real logs: replies only after writes, and what a restart remembers.

mod interleaving;
mod state;

use tempfile::TempDir;

use super::*;
use crate::log::{Isolation, LogConfig, ReadRequest, records};
use crate::metadata::tests::Bench;
use crate::types::Offset;

async fn groups(bench: &Bench) -> Groups {
    Groups::start(bench.metadata.clone(), bench.config.clone(), bench.clock.clone(), &bench.metrics)
        .await
        .unwrap()
}

fn join(group: &str) -> Join {
    Join {
        group: group.to_owned(),
        member: None,
        instance: None,
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout: Duration::from_secs(45),
        rebalance_timeout: Duration::from_secs(300),
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"sub"))],
        require_known_member: true,
        can_skip_assignment: true,
    }
}

/// Joins the way a client does, turning the clock past the initial delay.
async fn enter(bench: &Bench, groups: &Groups, group: &str) -> Joined {
    let Err(GroupError::MemberIdRequired(member)) = groups.join(join(group)).await else {
        panic!("a new member is first given its id");
    };
    let request = Join { member: Some(member), ..join(group) };
    let joining = tokio::spawn({
        let groups = groups.clone();
        async move { groups.join(request).await }
    });
    while !joining.is_finished() {
        // The shard sleeps on the real clock; any request makes it look at the time again.
        bench.clock.advance(Duration::from_secs(1));
        groups.describe(group).await;
        tokio::task::yield_now().await;
    }
    joining.await.unwrap().unwrap()
}

fn sync(joined: &Joined, group: &str) -> Sync {
    Sync {
        group: group.to_owned(),
        member: joined.member.clone(),
        instance: None,
        generation: joined.generation,
        protocol_type: Some("consumer".to_owned()),
        protocol: Some("range".to_owned()),
        assignments: vec![(joined.member.clone(), Bytes::from_static(b"all"))],
    }
}

fn member(joined: &Joined) -> MemberRef {
    MemberRef {
        member: Some(joined.member.clone()),
        instance: None,
        generation: Some(joined.generation),
    }
}

fn offset(topic: TopicId, at: u64) -> GroupOffset {
    GroupOffset {
        topic,
        partition: PartitionId(0),
        committed: CommittedOffset {
            position: Offset::new(at).into(),
            leader_epoch: None,
            metadata: "m".to_owned(),
            committed_at: Timestamp(1),
            expires_at: None,
        },
    }
}

#[tokio::test]
async fn a_member_goes_on_after_a_restart_without_an_error() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    let joined = enter(&bench, &first, "g").await;
    assert_eq!(joined.leader, joined.member);
    let synced = first.sync(sync(&joined, "g")).await.unwrap();
    assert_eq!(synced.assignment, "all");
    first.commit("g", member(&joined), vec![offset(topic.id, 7)]).await.unwrap();
    drop(first);
    bench.stop().await;

    let bench = Bench::start(&dir).await;
    let again = groups(&bench).await;
    assert_eq!(again.heartbeat("g", member(&joined)).await, Ok(()));
    assert_eq!(again.committed("g"), vec![offset(topic.id, 7)]);
    let described = again.describe("g").await.unwrap();
    assert_eq!(described.listing.state, "Stable");
    assert_eq!(described.members[0].assignment, "all");
    again.commit("g", member(&joined), vec![offset(topic.id, 8)]).await.unwrap();
    let left = again.leave("g", vec![MemberRef { generation: None, ..member(&joined) }]).await;
    assert_eq!(left, Ok(vec![Ok(())]));
    assert_eq!(again.list()[0].state, "Empty");
    bench.stop().await;
}

#[tokio::test]
async fn the_offsets_of_an_older_version_become_compacted() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let old = bench.metadata.ensure_internal(OFFSETS_TOPIC, 4, &[]).await.unwrap();
    let log = bench.metadata.log(old.id, PartitionId(0)).unwrap();
    assert!(log.config().compaction.is_none());
    let groups = groups(&bench).await;
    let config = log.config();
    assert!(config.compaction.is_some() && config.retention.is_none());
    assert_eq!((config.segment_bytes, config.codec), (104_857_600, None));
    drop((log, groups));
    bench.stop().await;
}

#[tokio::test]
async fn a_damaged_batch_costs_only_the_groups_in_it() {
    for with_view in [true, false] {
        let dir = TempDir::new().unwrap();
        let bench = Bench::start(&dir).await;
        let topic = bench.topic("t", 1).await;
        let first = groups(&bench).await;
        for n in 0..20 {
            let group = format!("g{n}");
            first.commit(&group, MemberRef::default(), vec![offset(topic.id, n)]).await.unwrap();
        }
        let offsets = bench.metadata.image().topic(OFFSETS_TOPIC).unwrap().clone();
        drop(first);
        bench.stop().await;
        for log in offsets.logs() {
            let path = dir.path().join(format!("logs/{log}/{:020}.log", 0));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[70] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        if !with_view {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }

        let bench = Bench::start(&dir).await;
        let again = groups(&bench).await;
        let kept = (0..20).filter(|n| !again.committed(&format!("g{n}")).is_empty()).count();
        assert_eq!(kept, 20 - offsets.partitions as usize);
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_stale_generation_cannot_move_an_offset() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let groups = groups(&bench).await;
    let joined = enter(&bench, &groups, "g").await;
    groups.sync(sync(&joined, "g")).await.unwrap();
    groups.commit("g", member(&joined), vec![offset(topic.id, 7)]).await.unwrap();
    let stale = MemberRef { generation: Some(Generation(0)), ..member(&joined) };
    let refused = groups.commit("g", stale, vec![offset(topic.id, 9)]).await;
    assert_eq!(refused, Err(GroupError::IllegalGeneration(Generation(0))));
    let simple = groups.commit("g", MemberRef::default(), vec![offset(topic.id, 9)]).await;
    assert!(matches!(simple, Err(GroupError::UnknownMember(_))));
    assert_eq!(groups.committed("g"), vec![offset(topic.id, 7)]);
    bench.stop().await;
}

#[tokio::test]
async fn offsets_of_a_deleted_topic_do_not_apply_to_the_next_of_its_name() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    first.commit("g", MemberRef::default(), vec![offset(topic.id, 7)]).await.unwrap();
    assert_eq!(first.committed("g").len(), 1);
    bench.metadata.delete(topic.id).await.unwrap();
    let next = bench.topic("t", 1).await;
    while !first.committed("g").is_empty() {
        tokio::task::yield_now().await;
    }
    drop(first);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    let again = groups(&bench).await;
    assert_eq!(again.committed("g"), vec![]);
    assert!(bench.metadata.image().topic_by_id(next.id).is_some());
    bench.stop().await;
}

#[tokio::test]
async fn a_deleted_group_stays_deleted() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    first.commit("g", MemberRef::default(), vec![offset(topic.id, 7)]).await.unwrap();
    assert_eq!(first.list().len(), 1);
    assert_eq!(first.delete("g").await, Ok(()));
    assert_eq!(first.delete("g").await, Err(GroupError::NotFound("g".to_owned())));
    assert!(first.list().is_empty() && first.committed("g").is_empty());
    drop(first);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    let again = groups(&bench).await;
    assert!(again.list().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn offsets_expire_when_their_client_said_so_and_the_group_has_no_members() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 2).await;
    let first = groups(&bench).await;
    let expiring = |partition: u32, after_s: i64| {
        let mut offset = GroupOffset { partition: PartitionId(partition), ..offset(topic.id, 7) };
        offset.committed.expires_at = Some(Timestamp(bench.clock.now().0 + 1000 * after_s));
        offset
    };
    // The shards look for them every ten minutes; any request makes them look at the clock.
    let pass = async |groups: &Groups, seconds: u64| {
        bench.clock.advance(Duration::from_secs(seconds));
        for _ in 0..3 {
            for group in ["soon", "kept", "joined"] {
                groups.describe(group).await;
                // Answered when the tombstones before it were written.
                let nothing = groups.commit(group, MemberRef::default(), vec![]).await;
                assert!(nothing.is_ok() || group == "joined");
            }
        }
    };
    let left = |groups: &Groups, group: &str| {
        groups.committed(group).iter().map(|offset| offset.partition.0).collect::<Vec<_>>()
    };
    let (soon, later) = (expiring(0, 60), expiring(1, 3_600));
    first.commit("soon", MemberRef::default(), vec![soon.clone(), later]).await.unwrap();
    let mut kept = offset(topic.id, 7);
    kept.committed.committed_at = bench.clock.now();
    first.commit("kept", MemberRef::default(), vec![kept]).await.unwrap();
    let joined = enter(&bench, &first, "joined").await;
    first.sync(sync(&joined, "joined")).await.unwrap();
    first.commit("joined", member(&joined), vec![soon]).await.unwrap();
    // A clock set forward alone expires nothing.
    let now = bench.clock.now();
    bench.clock.set_wall(Timestamp(now.0 + 7 * 86_400_000));
    pass(&first, 0).await;
    bench.clock.set_wall(now);
    assert_eq!(left(&first, "soon"), [0, 1]);
    for _ in 0..15 {
        // The member stays.
        pass(&first, 41).await;
        first.heartbeat("joined", member(&joined)).await.unwrap();
    }
    while left(&first, "soon") != [1] {
        pass(&first, 0).await;
        tokio::task::yield_now().await;
    }
    assert_eq!((left(&first, "kept"), left(&first, "joined")), (vec![0], vec![0]));
    drop(first);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    let again = groups(&bench).await;
    assert_eq!((left(&again, "soon"), left(&again, "kept")), (vec![1], vec![0]));
    bench.stop().await;
}

/// Lets days pass, and the shards of these groups look for what has expired.
async fn pass_days(bench: &Bench, groups: &Groups, days: u64) {
    // A shard that has just started looks ten minutes later.
    for days in [0, days] {
        bench.clock.advance(Duration::from_secs(days * 86_400));
        for group in ["left", "alone", "idle"] {
            groups.describe(group).await;
        }
    }
}

#[tokio::test]
async fn offsets_expire_after_the_retention_and_their_group_with_them() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    let committed = |bench: &Bench| {
        let mut offset = offset(topic.id, 7);
        offset.committed.committed_at = bench.clock.now();
        vec![offset]
    };
    let listed = |groups: &Groups| {
        let mut names: Vec<_> = groups.list().into_iter().map(|it| it.group).collect();
        names.sort();
        names
    };
    let leave = async |groups: &Groups, group: &str, joined: &Joined| {
        let left = groups.leave(group, vec![MemberRef { generation: None, ..member(joined) }]);
        assert_eq!(left.await, Ok(vec![Ok(())]));
    };
    // Members commit on the first day and leave on the fourth: that day counts.
    let joined = enter(&bench, &first, "left").await;
    first.sync(sync(&joined, "left")).await.unwrap();
    first.commit("left", member(&joined), committed(&bench)).await.unwrap();
    let day = Duration::from_secs(86_400);
    bench.clock.set_wall(Timestamp(bench.clock.now().0 + 3 * day.as_millis() as i64));
    leave(&first, "left", &joined).await;
    first.commit("alone", MemberRef::default(), committed(&bench)).await.unwrap();
    let idle = enter(&bench, &first, "idle").await;
    leave(&first, "idle", &idle).await;
    assert_eq!(listed(&first), ["alone", "idle", "left"]);
    drop(first);
    bench.stop().await;

    // The log remembers since when it is empty.
    let bench = Bench::start(&dir).await;
    bench.clock.advance(4 * day);
    let again = groups(&bench).await;
    assert_eq!(listed(&again), ["alone", "idle", "left"]);
    pass_days(&bench, &again, 1).await;
    until_listed(&again, &["alone", "left"]).await;
    pass_days(&bench, &again, 1).await;
    again.commit("alone", MemberRef::default(), committed(&bench)).await.unwrap();
    pass_days(&bench, &again, 6).await;
    until_listed(&again, &["alone"]).await;
    assert!(again.committed("left").is_empty());
    assert_eq!(again.committed("alone").len(), 1);
    drop(again);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    let last = groups(&bench).await;
    assert_eq!(listed(&last), ["alone"], "they do not come back");
    bench.stop().await;
}

/// Waits until these groups are left.
async fn until_listed(groups: &Groups, expected: &[&str]) {
    for _ in 0..100_000 {
        let mut names: Vec<_> = groups.list().into_iter().map(|it| it.group).collect();
        names.sort();
        if names == expected {
            return;
        }
        // Their tombstones are being written.
        tokio::task::yield_now().await;
    }
    panic!("not {expected:?} but {:?}", groups.list());
}

/// Every batch a segment of its own, compacted at once, tombstones too.
fn compact_at_once(bench: &Bench) {
    let topic = bench.metadata.image().topic(OFFSETS_TOPIC).unwrap().clone();
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    let mut config = LogConfig::clone(&log.config());
    config.segment_bytes = 1;
    let compaction = config.compaction.as_mut().expect("the topic is compacted");
    compaction.dirty_ratio_min = 0.0;
    compaction.delete_retention = Duration::ZERO;
    bench.logs.configure(topic.id, OFFSETS_TOPIC, config);
}

/// Values of all records that are left in the topic, tombstones included.
async fn records_left(bench: &Bench) -> usize {
    let topic = bench.metadata.image().topic(OFFSETS_TOPIC).unwrap().clone();
    let mut left = 0;
    for id in topic.logs() {
        let log = bench.metadata.log(id.topic, id.partition).unwrap();
        let mut from = log.span().start;
        while from < log.span().end {
            let request = ReadRequest {
                from,
                bytes_max: 1 << 20,
                at_least_one: true,
                isolation: Isolation::ReadUncommitted,
            };
            let read = log.read(request).await.unwrap();
            let batches = records::decode(read.records, 1 << 20).unwrap();
            from = batches.last().unwrap().last_offset.plus(1);
            left += batches.iter().map(|batch| batch.records.len()).sum::<usize>();
        }
    }
    left
}

#[tokio::test]
async fn a_compacted_topic_says_what_it_said_before() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 3).await;
    let first = groups(&bench).await;
    compact_at_once(&bench);
    let at = |partition: u32, n: u64| GroupOffset {
        partition: PartitionId(partition),
        ..offset(topic.id, n)
    };
    for n in 0..20 {
        for group in ["g", "h", "gone"] {
            // Of the batch only a part outlives the next one.
            let mut offsets = vec![at(0, n)];
            offsets.extend((n % 7 == 0).then(|| at(1, n)));
            first.commit(group, MemberRef::default(), offsets).await.unwrap();
        }
    }
    let joined = enter(&bench, &first, "members").await;
    first.sync(sync(&joined, "members")).await.unwrap();
    first.commit("members", member(&joined), vec![at(2, 5)]).await.unwrap();
    first.delete("gone").await.unwrap();
    // What is appended to last is never compacted: more of each partition.
    for n in 0..16 {
        let group = format!("later{n}");
        first.commit(&group, MemberRef::default(), vec![at(0, n)]).await.unwrap();
    }
    let said = |groups: &Groups| {
        let listed = groups.list();
        let offsets: Vec<_> =
            listed.iter().map(|listing| groups.committed(&listing.group)).collect();
        (listed, offsets)
    };
    let (before, full) = (said(&first), records_left(&bench).await);
    let logs = bench.logs.clone();
    for _ in 0..2 {
        let logs = logs.clone();
        bench.clock.advance(Duration::from_secs(1));
        let failed = tokio::task::spawn_blocking(move || logs.compact_now(1 << 20)).await;
        assert_eq!(failed.unwrap(), 0);
    }
    drop(logs);
    let compacted = records_left(&bench).await;
    assert!(compacted < full / 2, "{compacted} of {full} records are left");
    drop(first);
    bench.stop().await;

    let bench = Bench::start(&dir).await;
    let again = groups(&bench).await;
    let (listed, offsets) = said(&again);
    assert_eq!(offsets, before.1);
    let names = |listed: &[GroupListing]| -> Vec<String> {
        listed.iter().map(|listing| listing.group.clone()).collect()
    };
    assert_eq!(names(&listed), names(&before.0));
    assert!(!names(&listed).contains(&"gone".to_owned()));
    let generation = Some(joined.generation);
    let who = MemberRef { generation, ..member(&joined) };
    assert_eq!(again.heartbeat("members", who).await, Ok(()));
    bench.stop().await;
}

#[tokio::test]
async fn a_topic_whose_start_was_raised_is_read_from_there() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    for n in 0..10 {
        first.commit("g", MemberRef::default(), vec![offset(topic.id, n)]).await.unwrap();
    }
    let offsets = bench.metadata.image().topic(OFFSETS_TOPIC).unwrap().clone();
    let partition = super::offsets::partition_of("g", offsets.partitions);
    let log = bench.metadata.log(offsets.id, partition).unwrap();
    assert_eq!(log.trim(Offset::new(9)).await, Ok(Offset::new(9)));
    drop((first, log));
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    assert_eq!(groups(&bench).await.committed("g"), vec![offset(topic.id, 9)]);
    bench.stop().await;
}

#[tokio::test]
async fn the_end_of_an_old_topic_does_not_remove_commits_to_the_next_of_its_name() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let first = groups(&bench).await;
    compact_at_once(&bench);
    first.commit("g", MemberRef::default(), vec![offset(topic.id, 7)]).await.unwrap();
    // The group's owner hears of the deletion before or after this commit: neither order may cost
    // it.
    bench.metadata.delete(topic.id).await.unwrap();
    let next = bench.topic("t", 1).await;
    first.commit("g", MemberRef::default(), vec![offset(next.id, 3)]).await.unwrap();
    while first.committed("g").len() != 1 {
        tokio::task::yield_now().await;
    }
    // More behind it, so that it is not in the segment that is appended to.
    for n in 0..2 {
        let elsewhere = vec![GroupOffset { partition: PartitionId(1), ..offset(next.id, n) }];
        first.commit("g", MemberRef::default(), elsewhere).await.unwrap();
    }
    let logs = bench.logs.clone();
    bench.clock.advance(Duration::from_secs(1));
    tokio::task::spawn_blocking(move || logs.compact_now(1 << 20)).await.unwrap();
    drop(first);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    let kept = groups(&bench).await.committed("g");
    assert!(kept.contains(&offset(next.id, 3)), "{kept:?}");
    bench.stop().await;
}

#[tokio::test]
async fn requests_about_unknown_groups_leave_no_trace() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let groups = groups(&bench).await;
    let nobody =
        MemberRef { member: Some("m".to_owned()), instance: None, generation: Some(Generation(1)) };
    let unknown = Err(GroupError::UnknownMember("m".to_owned()));
    assert_eq!(groups.heartbeat("g", nobody.clone()).await, unknown);
    let late = Join { member: Some("m".to_owned()), ..join("g") };
    assert_eq!(groups.join(late).await, Err(GroupError::UnknownMember("m".to_owned())));
    let commit = groups.commit("g", nobody, vec![]).await;
    assert_eq!(commit, Err(GroupError::NotFound("g".to_owned())));
    assert_eq!(groups.join(join("")).await, Err(GroupError::InvalidGroupId));
    let hasty = Join { session_timeout: Duration::from_millis(1), ..join("g") };
    assert!(matches!(groups.join(hasty).await, Err(GroupError::InvalidSessionTimeout(_))));
    assert_eq!(groups.describe("g").await, None);
    assert!(groups.list().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn lag_is_what_lies_between_commit_and_high_watermark() {
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let groups = groups(&bench).await;
    for _ in 0..3 {
        bench.append(topic.id, "a").await;
    }
    groups.commit("g", MemberRef::default(), vec![offset(topic.id, 1)]).await.unwrap();
    let text = bench.scrape();
    let series = "ottla_group_lag_records{group=\"g\",partition=\"0\",topic=\"t\"} 2";
    assert!(text.contains(series), "{text}");
    // What is no offset has no lag, and outlives a restart.
    let mut sentinel = offset(topic.id, 0);
    sentinel.committed.position = Position::from_wire(-2);
    groups.commit("g", MemberRef::default(), vec![sentinel.clone()]).await.unwrap();
    assert!(!bench.scrape().contains("ottla_group_lag_records{"));
    assert_eq!(groups.committed("g"), vec![sentinel.clone()]);
    drop(groups);
    bench.stop().await;
    let bench = Bench::start(&dir).await;
    assert_eq!(self::groups(&bench).await.committed("g"), vec![sentinel]);
    bench.stop().await;
}

#[tokio::test]
async fn a_clock_set_forward_or_back_ends_no_session() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let dir = TempDir::new().unwrap();
    let bench = Bench::start(&dir).await;
    let topic = bench.topic("t", 1).await;
    let groups = groups(&bench).await;
    let joined = enter(&bench, &groups, "g").await;
    groups.sync(sync(&joined, "g")).await.unwrap();
    let now = bench.clock.now().0;
    for (jump_ms, at) in [(YEAR_MS, 1), (-YEAR_MS, 2), (86_400_000, 3), (0, 4)] {
        bench.clock.set_wall(Timestamp(now + jump_ms));
        // A request makes the shard look at its deadlines.
        groups.describe("g").await;
        tokio::task::yield_now().await;
        assert_eq!(groups.heartbeat("g", member(&joined)).await, Ok(()), "{jump_ms} ms");
        groups.commit("g", member(&joined), vec![offset(topic.id, at)]).await.unwrap();
    }
    assert_eq!(groups.committed("g"), vec![offset(topic.id, 4)]);
    // Time that passes does end it.
    bench.clock.advance(Duration::from_secs(46));
    groups.describe("g").await;
    tokio::task::yield_now().await;
    groups.describe("g").await;
    let beat = groups.heartbeat("g", member(&joined)).await;
    assert!(matches!(beat, Err(GroupError::UnknownMember(_))), "{beat:?}");
}
