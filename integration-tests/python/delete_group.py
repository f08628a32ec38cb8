"""Deletes a group that has no members any more.

Arguments: bootstrap servers, group.
"""

import sys

from confluent_kafka.admin import AdminClient

bootstrap, group = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": bootstrap})
admin.delete_consumer_groups([group])[group].result(30)
