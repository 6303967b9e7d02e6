// Package bench measures what issue 3 set aims for, on the real binary: `make bench` runs it and prints one table at the end.
//
//   - [BenchmarkKafka]: records that upstream systems put on the item topics, until their outcomes are visible in ClickHouse, through a
//     whole `counterfoil up`;
//   - [BenchmarkSink]: outcomes that lie on Kafka, until they are visible in ClickHouse, through one copy of the sink alone;
//   - [BenchmarkHTTP]: CRM.COM and HelloID over HTTP: latency of a lone call, rows a second of large ones, and the memory of the process.
//
// An operation is a whole load, so that one iteration says all (-benchtime 1x). Every load is encoded before the clock starts, and put on
// Kafka while the process under test is stopped (SIGSTOP): what is measured is the product, not the producer. Rates count from the moment
// at which it goes on to the one at which the last row is in a plain count(). Beside each rate stands the CPU time of each process for one
// item: on a machine that others use too that is the steadier figure.
//
// TEST_KAFKA=apache runs `up` against Apache Kafka in place of the embedded broker. BENCH_ITEMS (300000) is the size of a load.
//
// The folder report holds the program that turns the output of all benchmarks into the table. The lines themselves are in Go's benchmark
// format, for benchstat.
package bench
