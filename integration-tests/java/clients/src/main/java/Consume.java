import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reads the topic {@code test} as the group {@code test}, in order, commits and closes. Started
 * again, it goes on where it stopped.
 *
 * <p>Arguments: [bootstrap servers] [records to read before it closes] [another topic and group].
 * Without a count it reads until it is ended. Prints {@code partition offset key value} of each record.
 */
public final class Consume {
    public static void main(String[] args) {
        String bootstrap = args.length > 0 ? args[0] : "localhost:9092";
        int left = args.length > 1 ? Integer.parseInt(args[1]) : Integer.MAX_VALUE;
        String topic = args.length > 2 ? args[2] : "test";

        var props = new Properties();
        props.put("bootstrap.servers", bootstrap);
        props.put("group.id", topic);
        props.put("key.deserializer", StringDeserializer.class.getName());
        props.put("value.deserializer", StringDeserializer.class.getName());
        // A group without a committed position starts at the first record.
        props.put("auto.offset.reset", "earliest");
        props.put("enable.auto.commit", "false");
        // A poll must not return more than is still to be read: what it returns is committed.
        props.put("max.poll.records", Integer.toString(Math.min(left, 500)));

        try (var consumer = new KafkaConsumer<String, String>(props)) {
            consumer.subscribe(List.of(topic));
            while (left > 0) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.printf(
                            "%d %d %s %s%n",
                            record.partition(), record.offset(), record.key(), record.value());
                    left--;
                }
                consumer.commitSync();
            }
        }
    }
}
