// Package clickhouse keeps what Counterfoil decided in ClickHouse: it owns the tables and views, moves outcomes from Kafka into them
// exactly once, and answers the report queries of the HTTP doors.
//
// Its parts:
//
//   - config.go, conn.go: how to reach one server, or each node of a cluster ([Open]);
//   - migrate.go, migrations/*.sql: the tables and views, as numbered files ([Conn.Migrate]); epochs.go: which life of a topic is which;
//   - tables.go: which topic feeds which table and which Avro member fills which column;
//   - avro.go, column.go, fill.go: from the Avro bytes of a record straight into column slices, by a program that is compiled once for
//     each writer schema; no row is ever built;
//   - sink.go, group.go, decode.go, insert.go, lease.go, takeover.go: the exactly-once protocol below, from the loop and the group's callbacks
//     by way of the blocks to the tables; metrics.go counts it;
//   - moves.go: facts that are read by something else than their id;
//   - reports.go, reports_*.go, calls.go: queries for the doors and for matching; analysts.go: users who read the rows of one tenant.
//
// # Exactly once, by a lease
//
// A row is in its table once, at every moment, in a plain count(). ClickHouse has no transactions with Kafka and its deduplication of
// repeated blocks has a window that a process can sleep through, so that neither is used. Instead:
//
// Each row of a log table carries its position (epoch, topic, partition, offset). All rows of a flush for one table go in one block, which
// becomes one part: they appear together or not at all. Rows of a partition enter a table in the order of their offsets. Hence
// max(offset) of a partition in a table says exactly what the table has of it, and whoever takes a partition over asks for it and goes on
// behind it. A table may take rows of several topics, and of some of their records only: below that offset whatever has a row there has it.
// Kafka's committed offset is only a hint where to start reading.
//
// What remains is that nobody else may still be writing when the question is asked. Kafka fences commits of members that it has
// expelled by the group's generation; ClickHouse knows nothing of that. The lease joins the two. A member reads ClickHouse's clock, then
// commits its offsets; if Kafka takes the commit, the member was an owner at that moment, and may insert until [SinkConfig.Lease] later.
// Every row carries that limit in write_by, and the table refuses, by a constraint that it checks by its own clock, a block that comes
// later, however long the member was stopped and wherever the bytes were lying. A successor is assigned its partitions after that commit,
// so that it needs to wait for one lease by the same clock, and for the INSERTs that passed the constraint and are still at work, before it
// asks. A predecessor that gave the partition up in good order says so in the commit's metadata ("released"), and nobody waits.
//
// When the result of an INSERT did not arrive, the same question is asked after the same wait: the clock is past write_by and the INSERT is
// gone from system.processes; what the table has then, it has, and what it lacks is inserted again.
//
// All of this counts by ClickHouse's clock, which must not go back: were it set back, a member that had a lease by the old time, and was
// stopped, could still write when its successor has asked. Let it be slewed, not stepped (chrony and ntpd do so after a server's start). A
// member whose clock answers with an earlier time than before takes no lease until it has caught up, and counts that in
// counterfoil_sink_clock_backwards_total.
//
// State tables (references, facts, current ownership) get their rows at least once; the highest version of a key wins, so that they need no lease.
//
// Versions of facts follow the brokers' clocks, because records of one fact may come by several partitions. These must agree as well as facts
// are to be told apart: where a record goes to a broker whose clock is behind, by another partition or after a change of the leader, the older
// record may win, until the fact is sent again.
//
// # On a cluster
//
// Every node has the tables under their names with _local behind them; the plain names are Distributed tables above, which reads use and INSERTs
// do not. All rows of a partition lie on one shard, so that one table answers a take-over; all versions of a fact lie on the shard of its id,
// whichever partition brings them, so that moves stay on it. A shard that is away holds up its own partitions, the facts, and every read that
// would need it: no answer is given that leaves it out. What migrate has on record each node keeps for itself.
package clickhouse
