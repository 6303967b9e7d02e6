package simulation

import "testing"

func TestEngine(t *testing.T) {
	runSeeds(t, "TestEngine", func(seed uint64, traced bool) *sim { return runEngine(seed, guards{}, traced) })
}

// TestEngineGuards switches every rule of the engine off, one at a time: the promises must not hold without it.
func TestEngineGuards(t *testing.T) {
	for g := restoreHighWatermark; g <= originKept; g++ {
		proveGuard(t, g, runEngine)
	}
}
