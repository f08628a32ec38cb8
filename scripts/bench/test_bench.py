"""The arithmetic behind the report and the batches of the socket client; standard library only."""
import struct, sys, types, unittest

# The cases import librdkafka's client, which these tests do without.
for name in ("confluent_kafka", "confluent_kafka.admin"):
    sys.modules[name] = types.ModuleType(name)
for name in ("Consumer", "KafkaError", "KafkaException", "Producer", "TopicPartition"):
    setattr(sys.modules["confluent_kafka"], name, type(name, (Exception,), {}))
for name in ("AdminClient", "NewTopic", "OffsetSpec"):
    setattr(sys.modules["confluent_kafka.admin"], name, object)

import figures, report, shares, sockets, sql, targets
from cases import CASES
from rdkafka import WrongAnswer


def runs(ours, theirs, figure="MB/s"):
    wrap = [[value and {figure: value} for value in values] for values in (ours, theirs)]
    return {"Ottla": wrap[0], "Apache Kafka": wrap[1]}


class Shares(unittest.TestCase):
    def test_samples_are_sorted_by_what_they_were_doing(self):
        text = """log-writer-0
\tffffffff81 copy_folio+0x1 ([kernel.kallsyms])
\tffffffff82 __x64_sys_pwrite64+0x2 ([kernel.kallsyms])
\t      7f11 pwrite64+0x3 (libc.so.6)

log-writer-0
\tffffffff85 __iomap_dio_rw+0x1 ([kernel.kallsyms])
\tffffffff82 __x64_sys_pwrite64+0x2 ([kernel.kallsyms])

network-1
\tffffffff85 __iomap_dio_rw+0x1 ([kernel.kallsyms])
\tffffffff84 __x64_sys_preadv2+0x6 ([kernel.kallsyms])

network-1
\t      5501 crc32c::hw_x86_64::crc_u64_parallel3+0x4 (ottla)

network-1
\t      5502 ottla::log::run::Run::assemble (ottla)
"""
        kinds = ["write to the page cache", "sync to the disk", "read files", "check CRCs", "the log"]
        self.assertEqual(shares.shares(text), dict.fromkeys(kinds, 0.2))
        self.assertIn("| the log | 20 % |", shares.table({"a case": shares.shares(text)}))

    def test_every_default_case_is_one(self):
        self.assertLessEqual(set(shares.DEFAULT), {case.name for case in CASES})


class Figures(unittest.TestCase):
    def test_percentile_is_the_nearest_rank(self):
        self.assertEqual(figures.percentile([1, 2, 3, 4], 0.5), 2)
        self.assertEqual(figures.percentile(range(1, 1001), 0.999), 999)
        self.assertEqual(figures.percentile([7], 0.99), 7)

    def test_ratio_is_above_one_where_ottla_is_better(self):
        self.assertEqual(figures.ratio("MB/s", [20, 30, 40], [10, 10, 10]), (3, 2, 4))
        self.assertEqual(figures.ratio("CPU ms/MB", [1], [4]), (4, 4, 4))

    def test_a_failed_round_does_not_count_in_ratio_and_median(self):
        self.assertEqual(figures.ratio("MB/s", [None, 30], [10, 10]), (3, 3, 3))
        self.assertIsNone(figures.ratio("MB/s", [None], [10]))
        self.assertEqual(figures.median([None, 3]), 3)

    def test_rows_has_one_for_a_case_that_failed_throughout(self):
        self.assertEqual(list(figures.rows({"case": runs([None], [None])})), [("case", None, None, None, None)])

    def test_rows_has_figures_that_only_one_broker_has(self):
        results = {"case": {"Ottla": [{"job records/s": 5}], "Apache Kafka": [{}]}}
        self.assertEqual(list(figures.rows(results)), [("case", "job records/s", 5, None, None)])


class Report(unittest.TestCase):
    def test_table_names_a_case_once_and_says_what_failed(self):
        table = report.table({"a": runs([20], [10]), "b": runs([None], [None])})
        self.assertIn("| a | MB/s | 20.0 | 10.0 | 2.0 (2.0-2.0) |", table)
        self.assertIn("| b | failed |", table)

    def test_table_takes_another_binary_in_kafkas_place(self):
        results = {"a": {"Ottla": [{"MB/s": 20}], "Ottla beside it": [{"MB/s": 10}]}}
        table = report.table(results, "Ottla beside it")
        self.assertIn("| case | figure | Ottla | Ottla beside it |", table)
        self.assertIn("| a | MB/s | 20.0 | 10.0 | 2.0 (2.0-2.0) |", table)

    def test_a_target_shows_its_worst_case(self):
        target = targets.Target("work", "MB/s", ["a", "b"], times=3)
        outcome = targets.judge(target, {"a": runs([40], [10]), "b": runs([20], [10])})
        self.assertEqual((outcome.ours, outcome.times[0], outcome.met), (20, 2, False))

    def test_an_absolute_target_asks_for_no_kafka(self):
        target = targets.Target("memory", "MiB", ["a"], most=32)
        self.assertTrue(targets.judge(target, {"a": runs([21], [], "MiB")}).met)
        self.assertIsNone(targets.judge(target, {}).met)

    def test_each_target_and_bar_belongs_to_a_case(self):
        whole = {"start, until ready", "memory, idle", "memory, at the end"}
        names = {case.name for case in CASES} | whole
        for target in targets.TARGETS:
            self.assertTrue(target.cases, target.work)
            self.assertLessEqual(set(target.cases), names, target.work)
        self.assertLessEqual({case for _, case, _, _ in report.SUMMARY}, names)

    def test_what_may_be_missed_has_its_reason(self):
        text = (report.FOLDER / "missed.md").read_text()
        headings = {line[3:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")}
        self.assertEqual({target.why for target in targets.TARGETS if target.why}, headings)

    def test_case_names_are_unique(self):
        self.assertEqual(len({case.name for case in CASES}), len(CASES))


class Sockets(unittest.TestCase):
    def test_crc32c_has_its_published_check_value(self):
        self.assertEqual(sockets.crc32c(b"123456789"), 0xE3069283)

    def test_a_batch_says_its_length_count_and_crc(self):
        batch = sockets.batch([b"v", b"w"])
        self.assertEqual(struct.unpack_from(">i", batch, 8), (len(batch) - 12,))
        self.assertEqual(struct.unpack_from(">i", batch, sockets.RECORD_COUNT_AT), (2,))
        self.assertEqual(struct.unpack_from(">I", batch, 17), (sockets.crc32c(batch[21:]),))

    def test_answers_are_counted_when_whole_and_refused_when_wrong(self):
        def answer(error):
            body = struct.pack(">ii", 7, 1) + sockets.text("t")
            body += struct.pack(">iihqqqihi", 1, 0, error, 5, -1, 0, 0, -1, 0)
            return struct.pack(">i", len(body)) + body

        answers, sent = sockets.Answers(7, {"t"}), [(0, ("t", 0))] * 2
        both = answer(0) + answer(0)
        self.assertEqual(answers.take(both[:-1], sent), 1)
        self.assertEqual(answers.take(both[-1:], sent[1:]), 1)
        with self.assertRaises(WrongAnswer):
            answers.take(answer(6), sent)


class Sql(unittest.TestCase):
    def test_a_click_counts_in_its_ten_seconds(self):
        self.assertEqual(sql.counted_in(b'{"page": "/a", "ts": "2026-01-01 00:00:47.123"}'),
                         ("/a", "2026-01-01 00:00:40"))

    def test_two_rows_for_one_window_are_wrong(self):
        row = b'{"page": "/a", "window_start": "2026-01-01 00:00:40", "hits": 2}'
        self.assertEqual(sql.counts([row]), {("/a", "2026-01-01 00:00:40"): 2})
        with self.assertRaises(WrongAnswer):
            sql.counts([row, row])


if __name__ == "__main__":
    unittest.main()
