// Package checker proves, from what lies in Kafka and ClickHouse after a run, that the product kept its promises: nothing accepted was lost,
// nothing doubled, every decision was made once and in order, and ClickHouse holds exactly what was committed.
//
// [Read] collects a [World]: the committed records of all topics, the rows of the log tables and those of the views of what holds now.
// [World.Check] compares it with itself and with what the callers of a run were told, and returns problems as sentences; none means that every
// promise held.
//
// The checks know nothing of how the engine or the sink work. They decide ownership by a model of their own (model.go), what an idempotency
// key, a sale's id or a fact's id stands for by going through the topic in order, and which call a sale must have by what lay on Kafka before it.
//
// Files: read.go the collecting; check.go the checks; model.go ownership by the contract's table; sent.go what callers know;
// prove.go all of it for a test.
package checker
