// Package bench measures what the product has aims for, on the real binary: `make bench` runs it and prints one table at the end.
//
//   - [BenchmarkKafka]: records that upstream systems put on the item topics, until their outcomes are visible in ClickHouse, through a
//     whole `counterfoil up`;
//   - [BenchmarkSink]: outcomes that lie on Kafka, until they are visible in ClickHouse, through one copy of the sink alone;
//   - [BenchmarkHTTP]: CRM.COM and HelloID over HTTP: latency of a lone call, rows a second of large ones, and the memory of the process;
//   - [BenchmarkSales]: sales that are matched to calls, from Kafka and from Mediahawk's door;
//   - [BenchmarkAvon], [BenchmarkV1]: the doors of financial transactions, in every format, and of our own API;
//   - [BenchmarkReport]: Caliq's buying report over HTTP.
//
// An operation is a whole load, so that one iteration says all (-benchtime 1x). Every load is encoded before the clock starts, and put on
// Kafka while the process under test is stopped (SIGSTOP): what is measured is the product, not the producer. Rates count from the moment
// at which it goes on to the one at which the last row is in a plain count(). Beside each rate stands the CPU time of each process for one
// item: on a machine that others use too that is the steadier figure.
//
// TEST_KAFKA=apache runs `up` against Apache Kafka in place of the embedded broker. BENCH_ITEMS (300000) is the size of a load, BENCH_CALLS
// (1000000) how many calls sales are matched to, and BENCH_LINES (5000000) how many order lines, and as many invoice lines, the report looks
// among: run it with several sizes to see how the time grows.
//
// The folder report holds the program that turns the output of all benchmarks into the table. The lines themselves are in Go's benchmark
// format, for benchstat.
package bench
