// Package simulation plays the protocols of the sink and of the engine in a model: virtual time, chance from one seed, and everything going
// wrong that may. A run takes milliseconds, so that orders of events are tried by the hundred thousand which a test on real servers meets
// once in years, and a seed repeats its run exactly.
//
//	go test ./test/simulation                                        some thousand seeds
//	SEEDS=100000 go test -timeout 1h -run 'TestSink$|TestEngine$' ./test/simulation    as make soak does
//	SEED=17 go test -run 'TestSink$' ./test/simulation               one seed, with everything that happened in it
//
// # What mirrors what
//
// Functions bear the names of those that they mirror, or say so, and go through the same steps in the same order. A change of a protocol is
// made in both places, here first.
//
//   - sim.go: the clock, tasks as coroutines (one runs at a time, the seed says which is next), requests that are late or lost;
//   - group.go: the coordinator of a consumer group with its commits, and Kafka's client (franz-go) as a member of it;
//   - log.go, transactions.go: partitions with committed and aborted records, markers and gaps; the transaction coordinator;
//   - clickhouse.go: the tables, their constraint in_time, and system.processes;
//   - sink.go: a copy of the sink, from sinks/clickhouse sink.go, group.go, decode.go, insert.go, lease.go and takeover.go;
//   - engine.go: a copy of a processor, from processors processor.go, session.go, takeover.go, round.go and lane.go, with the references and the
//     barrier of processors/reference. Items are judged by the real upserts.Decide, keyed by upserts.Key and placed by schemas.Partition;
//   - sink_world.go, engine_world.go: what a run consists of, and what must hold in it; plagues.go what goes wrong.
//
// # What goes wrong
//
// Processes stand still for milliseconds or hours, or die, at any moment or at a step; they are stopped in good order and started again, with a
// name of their own (static members) or without. Requests and answers are late or lost, connections break while what was sent goes on its
// way. Kafka stands still, expels members, and answers a commit that it applied with an error; its markers come seconds later. ClickHouse
// stands still, restarts, takes long between the constraint and the part, refuses rows of one table, answers with an error after it took the
// rows, and its clock is set by an hour either way.
//
// # What must hold
//
// At every step: no record is twice in a log table, none is there that was not committed, and none came in by a block whose copy had no lease;
// no item has two outcomes, each is what the sequential model says of its key in the order of offsets, judged with every reference that was
// acknowledged before the item was sent. At the end, when everything is healed: every record and every outcome is there.
//
// # What is left out
//
// Schemas and decoding (a record is good or bad), state tables, which may get rows twice, clusters of ClickHouse, kinds other than ownership,
// requests with idempotency keys, the compaction of changelogs, and brokers: Kafka is one that stands still but forgets nothing. Joining a group and
// learning the assignment are one step. Where a static member was killed between giving a partition up and joining again, Kafka leaves that
// partition to nobody until the next rebalance; here one begins at once.
//
// # Guards
//
// Each rule of the protocols is a guard that tests switch off (guards.go): without it a promise is broken within some thousand seeds. So the
// model is strong enough to miss it, and the rule is there for a reason. A few stand behind others, which the model does not see fail; spare says
// which, and why they stay.
package simulation
