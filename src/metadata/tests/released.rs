//! Directories of earlier versions open.

use std::path::Path;

use super::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// Made by the version whose journal was text: a topic that gained partitions and changed its configs,
/// and one that was deleted and created again. Its view is left out, as if it were lost.
#[tokio::test]
async fn a_directory_of_format_4_opens_and_can_be_changed() {
    let dir = TempDir::new().unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy(&kept.join("src/metadata/tests/data-dir-of-format-4"), dir.path());
    for life in 0..2 {
        let bench = Bench::start(&dir).await;
        let image = bench.metadata.image();
        let names: Vec<&str> = image.topics().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names[..3], ["__consumer_offsets", "clicks", "gone"], "in life {life}");
        let offsets = image.topic("__consumer_offsets").unwrap();
        assert!(offsets.internal && offsets.partitions == 2);
        assert_eq!(offsets.configs["cleanup.policy"], "compact");
        let clicks = image.topic("clicks").unwrap();
        assert_eq!(clicks.id.to_string(), "42f20b49-de87-4b99-bc31-15f2f9f532bd");
        assert_eq!(clicks.partitions, 3);
        assert_eq!(clicks.configs, [("max.message.bytes".to_owned(), "2000".to_owned())].into());
        let gone = image.topic("gone").unwrap();
        assert_eq!(gone.id.to_string(), "5b06f4a4-282e-44f9-81c9-3f918719cafe");
        for topic in [clicks, gone] {
            let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
            assert_eq!(log.span().high_watermark, Offset::new(1));
        }
        bench.topic(&format!("new-{life}"), 1).await;
        bench.stop().await;
    }
}
