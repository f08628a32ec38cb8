import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs an Ottla SQL file in Flink: its statements one after the other, the last one, an INSERT,
 * until this program is ended.
 *
 * <p>Arguments: bootstrap servers, SQL file, sink topic in the file, sink topic to use instead.
 * The file is taken as it stands but for two things: Flink demands
 * {@code properties.bootstrap.servers}, which Ottla lets one leave out, and the rows go to a topic
 * of their own. Prints {@code running} once the job is submitted.
 */
public final class FlinkSql {
    public static void main(String[] args) throws Exception {
        String script =
                Files.readString(Path.of(args[1]))
                        .replaceAll("--[^\n]*", "")
                        .replace(
                                "'connector' = 'kafka'",
                                "'connector' = 'kafka', 'properties.bootstrap.servers' = '"
                                        + args[0]
                                        + "'")
                        .replace("'topic' = '" + args[2] + "'", "'topic' = '" + args[3] + "'");

        var tables = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        tables.getConfig().set("parallelism.default", "1");
        tables.getConfig().set("table.local-time-zone", "UTC");
        for (String statement : script.split(";")) {
            if (statement.isBlank()) {
                continue;
            }
            var result = tables.executeSql(statement);
            if (result.getJobClient().isPresent()) {
                System.out.println("running");
                result.await();
            }
        }
    }
}
