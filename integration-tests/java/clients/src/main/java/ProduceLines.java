import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Writes each line of its input as one record to a topic, with the producer's default settings.
 * A line {@code key<TAB>value} has a key.
 *
 * <p>Arguments: bootstrap servers, topic, [records per second]. After each line {@code .} it
 * flushes and prints {@code flushed N}: everything up to there is acknowledged.
 */
public final class ProduceLines {
    public static void main(String[] args) throws Exception {
        var props = new Properties();
        props.put("bootstrap.servers", args[0]);
        props.put("key.serializer", StringSerializer.class.getName());
        props.put("value.serializer", StringSerializer.class.getName());

        double perSecond = args.length > 2 ? Double.parseDouble(args[2]) : Double.MAX_VALUE;

        var failure = new AtomicReference<Exception>();
        long sent = 0;
        long start = System.nanoTime();
        try (var producer = new KafkaProducer<String, String>(props);
                var lines = new BufferedReader(new InputStreamReader(System.in))) {
            for (String line; (line = lines.readLine()) != null; ) {
                if (!line.equals(".")) {
                    int tab = line.indexOf('\t');
                    String key = tab < 0 ? null : line.substring(0, tab);
                    producer.send(
                            new ProducerRecord<>(args[1], key, line.substring(tab + 1)),
                            (metadata, error) -> {
                                if (error != null) {
                                    failure.set(error);
                                }
                            });
                    sent++;
                    continue;
                }
                producer.flush();
                if (failure.get() != null) {
                    throw failure.get();
                }
                System.out.println("flushed " + sent);
                long due = start + (long) (sent / perSecond * 1e9);
                LockSupport.parkNanos(due - System.nanoTime());
            }
        }
        if (failure.get() != null) {
            throw failure.get();
        }
    }
}
