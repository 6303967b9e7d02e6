package schemas

import "github.com/twmb/franz-go/pkg/kgo"

// ConsumeCommitted are the options of every client that reads our topics. A later option overrides one of these, where a reader has a
// reason to differ.
func ConsumeCommitted() []kgo.Opt {
	return []kgo.Opt{
		// What a transaction wrote counts when it is committed, and never when it is aborted.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Positions and commits move over the markers that end transactions; otherwise no end of a topic would ever be reached.
		kgo.KeepControlRecords(),
		// An offset that the log does not have is an error that a person sees: starting over and jumping ahead would both be silent.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	}
}
