"""Creates a topic: kcat cannot.

Arguments: bootstrap servers, topic, number of partitions.
"""

import sys

from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, partitions = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": bootstrap})
for future in admin.create_topics([NewTopic(topic, int(partitions), 1)]).values():
    future.result(30)
