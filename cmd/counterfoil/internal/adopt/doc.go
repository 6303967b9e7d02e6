// Package adopt takes over what Kafka and ClickHouse no longer agree on: topics that were created anew, a ClickHouse that lost its data, and
// committed offsets that are gone. Every role refuses to run then, because positions would mean other records than those in the tables, or a
// group would begin anywhere. [Find] looks and changes nothing; [Plan.Do] does what the plan says.
//
// # Topics that were created anew
//
// Each becomes the next epoch of its name: positions in the tables are (epoch, topic, partition, offset), so that the rows of the earlier life
// stay what they are. Versions and the identities of records without a batch contain the epoch, those of facts the broker's time: what comes
// now is newer, and other, than all that was. Numbers that callers get by a position (of batches, of CRM.COM's events) begin after a base
// that lies above the highest number known, by [gap], because the last numbers may have been given out without reaching ClickHouse. Every
// group that reads the topic begins at its start.
//
// # A ClickHouse without data
//
// It knows no topic, though Kafka shows that roles were at work. Filling it again is safe as long as Kafka has everything: the sink begins at
// the start of each log, and what processors have judged stays judged. The epochs and bases that were lost with the tables are those that the
// sink's commits name and, of item topics, the outcomes in Kafka, so that positions and numbers keep the meaning that they have. What retention or
// compaction took away stays away, and the plan says where.
//
// # Offsets that are gone
//
// A processor's outcomes name the record that they are about, and they commit in one transaction with its offset. So the offset that was lost
// is one past the highest position that an outcome, a dead letter or a forwarded copy names; ClickHouse answers for those that it has,
// and Kafka's logs, read committed up to their high watermark, for those behind (evidence.go). Markers, dropped replays and the rest of requests
// that had no effect leave no trace: to read them again has no effect either. What the processor of requests passed on is found by batch key
// and index where it was passed to (requests.go).
//
// The sink begins at the log's start instead. Each log table knows by itself what it has, and takes nothing twice. But a topic feeds several
// tables, and the tables of references, of facts and of current ownership, and the dead letters of the sink's own, do not tell up to where they
// are whole: one may have been behind the others. Reading again costs time, and finds it out. The commit does not say "released", so that
// the first member waits for the lease of one that may still be paused in the middle of an insert.
//
// # Order
//
// Commits come first, then the starts of groups, the epochs last: whoever reads an epoch finds its groups ready, and a run that was cut off is
// done again whole. Kafka refuses such commits while a group has members, whatever was found before.
package adopt
