package simulation

// guard is a rule of the protocols. Every one can be switched off, so that a test can show what it is for.
type guard int

const (
	// The sink's, in sinks/clickhouse.
	checkInTable            guard = iota // the table refuses a block after its write_by (migrations/0001_tables.sql)
	insertWithLease                      // no INSERT without an unexpired lease (dest.begin)
	clockBeforeCommit                    // a lease counts from ClickHouse's time before the commit was sent (Sink.commit)
	clockNeverBack                       // no lease while ClickHouse's clock is behind what it was (Sink.commit)
	takeOverWaitsLease                   // a successor waits one lease (Sink.tryTakeOver)
	takeOverWaitsGone                    // and for the INSERTs that are at work then (Sink.tryTakeOver)
	takeOverReadsLease                   // and until the predecessor's commit says (Sink.tryTakeOver)
	takeOverOwnClock                     // by its own clock as well (Sink.tryTakeOver)
	tableDecides                         // a successor skips what the tables have (Sink.activate)
	heldBeforeInsert                     // an owner commits before its first INSERT, so that "released" is gone (Sink.activate)
	releaseWhenDone                      // "released" only when nothing is under way (Sink.giveUp)
	resolveWaitsWriteBy                  // an unknown INSERT is waited for until write_by (dest.resolve)
	resolveWaitsGone                     // and until it is gone from system.processes (dest.resolve)
	resolveAsks                          // and what the table has is not inserted again (dest.resolve)
	keepRowsOnRefusedCommit              // a refused commit throws no rows away (Sink.keep)
	commitWhenAllTables                  // a position is committed when all tables have everything below (part.flushed)
	positionsWait                        // a position does not pass rows that wait before it (Sink.enqueue)
	inOrder                              // nothing passes an entry that its table refuses (dest.run)
	dropRowsOfGone                       // rows of partitions that were lost are not inserted (dest.begin)
	goneNotCommitted                     // nor are their positions committed (Sink.send)
	memberRemembered                     // nothing is committed under another member id than the partition's (Sink.send, assigned, giveUp)
	badRecordOfSkipped                   // a record that its table has passed may still lack its dead letter (Sink.add)

	// The engine's, in processors.
	restoreHighWatermark // a changelog is read to its high watermark (session.restore)
	barrier              // references are waited for (round.awaitReferences)
	barrierHighWatermark // up to the high watermark (Tables.WaitFor)
	freshClient          // what is not a commit ends the client (session.end)
	endsPredecessor      // the transactional id is taken over before the group is joined (openSession)
	stableOffsets        // positions are read when transactions are over (RequireStable of the client)
	commitsCompared      // what is committed is compared after a generation without the member, or under another id (session.checkSkipped)
	overtakenAborted     // a round is committed by the member and in the generation in which it was polled (session.end)
	offsetsFenced        // offsets in a transaction are fenced by the group's generation (GroupTransactSession.End)
	stateInTransaction   // state changes are in the transaction of their outcomes (round.produce)
	overlayDropped       // an aborted round leaves no state behind (session.abort)
	readCommitted        // items of aborted transactions are not judged (schemas.ConsumeCommitted)
	forwardMisplaced     // an item is judged in the partition of its key (lane.forward)
	originKept           // and keeps its identity (lane.forward)

	guardCount
)

// clocks is why the rules about ClickHouse's clock stay.
const clocks = "a successor waits by name for every INSERT that has begun, whatever the clocks say, so that there must be one which a copy begins after " +
	"that and within five seconds of the end of its lease, and the clock must be set between its lease and its block; it was not met in 4,000 seeds"

// spare are rules that no run needs, because others stand before them, and why they stay.
var spare = map[guard]string{
	resolveWaitsWriteBy: "an INSERT is begun in one exchange and gets its block in another over the same connection, so that one whose block is on its way " +
		"is in system.processes, or its connection is gone; the wait does not rest on that",
	clockNeverBack:     clocks,
	takeOverReadsLease: clocks,
	takeOverOwnClock:   clocks,
	goneNotCommitted: "whoever has a partition now has committed it as held, and a position that is too low costs a second look; without the rule " +
		"positions would go back, which confuses whoever watches them",
}

// guards are the rules that are switched off.
type guards [guardCount]bool

func without(which ...guard) (off guards) {
	for _, g := range which {
		off[g] = true
	}
	return off
}

var guardNames = [guardCount]string{
	checkInTable: "check in table", insertWithLease: "insert with lease", clockBeforeCommit: "clock before commit", clockNeverBack: "clock never back",
	takeOverWaitsLease: "take-over waits for the lease", takeOverWaitsGone: "take-over waits for INSERTs", takeOverReadsLease: "take-over reads the lease", takeOverOwnClock: "take-over waits by its own clock", tableDecides: "table decides",
	heldBeforeInsert: "held before insert", releaseWhenDone: "release when done", resolveWaitsWriteBy: "unknown waits for write_by",
	resolveWaitsGone: "unknown waits for INSERT", resolveAsks: "unknown asks the table", keepRowsOnRefusedCommit: "keep rows on refused commit",
	commitWhenAllTables: "commit when all tables have it", positionsWait: "positions wait", inOrder: "in order", dropRowsOfGone: "drop rows of lost partitions",
	goneNotCommitted: "lost partitions are not committed", memberRemembered: "member remembered", badRecordOfSkipped: "dead letters of skipped records",
	restoreHighWatermark: "restore to the high watermark", barrier: "barrier", barrierHighWatermark: "barrier at the high watermark",
	freshClient: "fresh client", endsPredecessor: "ends its predecessor", stableOffsets: "stable offsets",
	commitsCompared: "commits compared", overtakenAborted: "overtaken rounds aborted", offsetsFenced: "offsets fenced", stateInTransaction: "state in the transaction",
	overlayDropped: "overlay dropped", readCommitted: "read committed", forwardMisplaced: "forward misplaced", originKept: "origin kept",
}

func (g guard) String() string { return guardNames[g] }
