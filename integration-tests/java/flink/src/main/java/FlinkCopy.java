import java.util.List;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * A Flink job in the local mini-cluster: reads the topic {@code test}, prints it and writes it to
 * the topic {@code test-copy}.
 *
 * <p>Arguments: [bootstrap servers] [another topic] [--bounded]. With {@code --bounded} the job ends
 * after the records that are there when it starts; without, it streams until it is ended.
 */
public final class FlinkCopy {
    public static void main(String[] args) throws Exception {
        String bootstrap = args.length > 0 ? args[0] : "localhost:9092";
        String topic = args.length > 1 ? args[1] : "test";

        var source =
                KafkaSource.<String>builder()
                        .setBootstrapServers(bootstrap)
                        .setTopics(topic)
                        .setGroupId("flink-copy")
                        .setStartingOffsets(OffsetsInitializer.earliest())
                        .setValueOnlyDeserializer(new SimpleStringSchema());
        if (List.of(args).contains("--bounded")) {
            source.setBounded(OffsetsInitializer.latest());
        }
        var sink =
                KafkaSink.<String>builder()
                        .setBootstrapServers(bootstrap)
                        .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                        .setRecordSerializer(
                                KafkaRecordSerializationSchema.<String>builder()
                                        .setTopic(topic + "-copy")
                                        .setValueSerializationSchema(new SimpleStringSchema())
                                        .build())
                        .build();

        var environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.setParallelism(1);
        environment.enableCheckpointing(1000);
        var records =
                environment.fromSource(source.build(), WatermarkStrategy.noWatermarks(), topic);
        records.print();
        records.sinkTo(sink);
        environment.execute("copy");
    }
}
