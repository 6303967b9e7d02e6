package simulation

import (
	"testing"
)

func TestSink(t *testing.T) {
	runSeeds(t, "TestSink", func(seed uint64, traced bool) *sim { return runSink(seed, guards{}, traced) })
}

// TestSinkGuards switches every rule of the sink off, one at a time: the promises must not hold without it.
func TestSinkGuards(t *testing.T) {
	for g := checkInTable; g <= badRecordOfSkipped; g++ {
		proveGuard(t, g, runSink)
	}
}
