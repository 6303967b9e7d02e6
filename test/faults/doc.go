// Package faults breaks the product and everything that it stands on, at random moments and under load, and proves afterwards that nothing that was
// accepted is lost, nothing is doubled, every item has one outcome, keys are judged in order, and ClickHouse is exact.
//
// [TestFaults] makes short runs on a cluster of two copies of each role. A seed draws the load (test/load) and a schedule of faults, a third of
// which begin beside the one before. After each run test/checker compares Kafka and ClickHouse with what callers were told, and the run itself
// looks whether every caller was answered or told where to ask, whether all lag is gone, and whether a plain count of each log table was exact at
// every moment at which it was sampled. A failure prints the command that repeats its seed. [TestSoak] is one long run.
//
//	SEED=17 go test -v -run 'TestFaults$' ./test/faults     repeats a seed
//	SEEDS=300 go test -timeout 3h -v -run 'TestFaults$' ... as many other seeds
//	FAULTS=2 SEEDS=300 go test ...                          with so many faults each
//	FAULT=ClickHouse SEEDS=10 go test ...                   only faults whose names have that part; '!kill Kafka': all but that
//	SOAK=1 SOAK_FOR=30m go test -run TestSoak ...           for so long
//	SOAK=1 FAULTS=200 ITEMS=1000000 go test -run TestSoak   until so much has happened
//	TEST_KAFKA=apache SEED=17 go test ...                   on Apache Kafka
//
// Sessions, leases and transactions last 2 s here; "a while" is some seconds, about half of the time longer than these.
//
//	fault                                      what is done
//	kill ingest, process, sink                 kill -9, once or twice, perhaps while it starts; a supervisor starts what ends by itself
//	stop ingest, process, sink                 SIGSTOP for longer than a session, then SIGCONT
//	process, sink joins and leaves             a third copy, which ends with SIGTERM or kill -9: two rebalances
//	kill Kafka                                 Apache Kafka: kill -9, restart on its data; kfake is closed as `counterfoil up` does
//	stop Kafka                                 SIGSTOP (Apache Kafka)
//	Kafka cut off                              one copy's connections end and new ones are refused, for a while
//	Kafka silent                               they carry nothing, and neither end hears of it; what was sent arrives late
//	Kafka's answers lost                       requests arrive, answers do not
//	Kafka slow                                 100 ms for each piece
//	commits (applied and) answered with an error  EndTxn is answered with UNKNOWN_SERVER_ERROR, and was applied or not (kfake)
//	lost offsets are adopted                   all copies stop, a group's offsets are deleted; roles must refuse to start; `counterfoil adopt --offsets`
//	open items are replayed                    `counterfoil replay` of what was left unprocessed within 5 s, half of the time killed on the way
//	coordinators not there                     NOT_COORDINATOR and the like to a share of the requests (kfake)
//	kill, stop ClickHouse                      kill -9 and restart; SIGSTOP for longer than a lease
//	ClickHouse out of memory                   a memory limit below what it has in use
//	ClickHouse has too many parts, is read-only  some tables refuse inserts
//	ClickHouse fails before it applies         a failpoint of ClickHouse in the writer of parts
//	ClickHouse applies and answers with an error  MEMORY_LIMIT_EXCEEDED from a view behind some tables, whose parts are in by then
//	ClickHouse applies and answers late        the view takes 3 s
//	ClickHouse pauses between check and commit an index of some tables takes 3 s, after the constraints and before the part is in
//	ClickHouse cut off, silent, answers lost, slow  one copy's connections, as with Kafka
//	kill the registry                          kill -9, and its address refuses for a while
//	the registry is down when a copy starts    a copy is killed and started meanwhile
//
// Apache Kafka 4.3.1 forgets markers of transactions where a partition has no leader when it comes to write them: it takes the partition for deleted.
// A broker with the only copy does so that is killed with -9 between a decision and its markers and is back within its session: it goes on as
// coordinator by what it last knew, until the controller makes it register anew, which leaves its partitions without a leader for a moment. Here the
// broker has a controller in a process of its own and waits until that has missed it (test/stack), so that none is lost. A broker that is its own
// controller, as small installations have it, lost some in one of six kills. The transaction stays open then, and who has to read it waits (a
// take-over reads its state); counterfoil adopt --transactions helps, as markers_test.go shows, which takes markers out of the log. But where the
// producer has gone on in such a partition meanwhile, the marker of its next transaction ends both, and an abort undoes a part of what was committed:
// Kafka breaks its promise then, and the checker says that ours is broken.
//
// What cannot be done to a server of its own is done elsewhere: ClickHouse's clock is set an hour ahead and back in sinks/clickhouse
// (TestClockIsSteppedByAnHour, the engine's own comparisons included) and in test/simulation; topics are created anew in cmd/counterfoil (adopt).
//
// Always at work, as part of the load: producers with another partitioner, and to any partition; records that nobody can read; items about as large
// as may be; several callers that change the same keys; requests repeated with and without an idempotency key.
package faults
