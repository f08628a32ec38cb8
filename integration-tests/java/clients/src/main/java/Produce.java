import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Writes ten records to the topic {@code test}, which need not exist, with the producer's default
 * settings: {@code acks=all} and idempotent.
 *
 * <p>Arguments: [bootstrap servers] [another topic]. Prints partition and offset of each record.
 */
public final class Produce {
    public static void main(String[] args) throws Exception {
        String bootstrap = args.length > 0 ? args[0] : "localhost:9092";
        String topic = args.length > 1 ? args[1] : "test";

        var props = new Properties();
        props.put("bootstrap.servers", bootstrap);
        props.put("key.serializer", StringSerializer.class.getName());
        props.put("value.serializer", StringSerializer.class.getName());

        try (var producer = new KafkaProducer<String, String>(props)) {
            for (int i = 0; i < 10; i++) {
                Future<RecordMetadata> sent =
                        producer.send(new ProducerRecord<>(topic, "key" + i, "value" + i));
                System.out.println(sent.get());
            }
        }
    }
}
