package simulation

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/counterfoil/counterfoil/test/harness"
)

func TestMain(m *testing.M) {
	if harness.Raced {
		fmt.Println("A run is one goroutine at a time: the race detector finds nothing in it, and takes twenty times as long. CI plays it without.")
		return
	}
	m.Run()
}

// number reads a variable of the environment.
func number(t *testing.T, name string, otherwise uint64) (n uint64, set bool) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n, true
}

// runSeeds plays SEEDS seeds, or the one that SEED names, and shows the trace of the first that breaks a promise.
func runSeeds(t *testing.T, test string, run func(seed uint64, traced bool) *sim) {
	t.Helper()
	if seed, set := number(t, "SEED", 0); set {
		s := run(seed, true)
		t.Logf("%s\n", strings.Join(s.trace, "\n"))
		if s.wrong != nil {
			t.Fatalf("%s: %s", s.wrong.kind, s.wrong.text)
		}
		return
	}
	count := uint64(2000)
	if os.Getenv("SOAK") != "" {
		count = 100_000
	}
	count, _ = number(t, "SEEDS", count)
	seed := firstViolation(count, func(seed uint64) bool { return run(seed, false).wrong != nil })
	if seed == count {
		t.Logf("%d seeds without a violation", count)
		return
	}
	s := run(seed, true)
	if s.wrong == nil {
		t.Fatalf("seed %d broke a promise, and does not when it is played again", seed)
	}
	from := max(0, len(s.trace)-150)
	t.Fatalf("%s: %s\n%s\n\nThe last of %d steps; SEED=%d go test -run '^%s$' ./test/simulation shows all of them.",
		s.wrong.kind, s.wrong.text, strings.Join(s.trace[from:], "\n"), len(s.trace), seed, test)
}

// TestARunRepeats: a seed says everything of its run, or its trace would be of no use.
func TestARunRepeats(t *testing.T) {
	for name, run := range map[string]func(seed uint64, off guards, traced bool) *sim{"sink": runSink, "engine": runEngine} {
		for seed := range uint64(20) {
			one, other := run(seed, guards{}, true).trace, run(seed, guards{}, true).trace
			if len(one) < 100 {
				t.Errorf("%s %d: only %d steps", name, seed, len(one))
			}
			if len(one) != len(other) {
				t.Errorf("%s %d: %d steps and then %d", name, seed, len(one), len(other))
			}
			for i := range min(len(one), len(other)) {
				if one[i] != other[i] {
					t.Fatalf("%s %d: step %d is %q and then another", name, seed, i, one[i])
				}
			}
		}
	}
}

// firstViolation plays seeds from 0 on, side by side, and returns the least that is found wrong; count for none.
func firstViolation(count uint64, wrong func(seed uint64) bool) uint64 {
	var next, found atomic.Uint64
	found.Store(count)
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= found.Load() {
					return
				}
				if wrong(seed) {
					for old := found.Load(); seed < old && !found.CompareAndSwap(old, seed); old = found.Load() {
					}
				}
			}
		})
	}
	group.Wait()
	return found.Load()
}

// proveGuard plays seeds without a rule until a promise is broken. A run that does not come to its end proves nothing.
func proveGuard(t *testing.T, g guard, run func(seed uint64, off guards, traced bool) *sim) {
	t.Run(g.String(), func(t *testing.T) {
		count := uint64(5000)
		if why, ok := spare[g]; ok {
			t.Skip(why)
		}
		if os.Getenv("SOAK") != "" {
			count = 100_000
		} else if g == heldBeforeInsert {
			t.Skip("it takes some thousand seeds to show: SOAK=1 does")
		}
		broken := func(seed uint64) *violation {
			if wrong := run(seed, without(g), false).wrong; wrong != nil && wrong.kind != stuck {
				return wrong
			}
			return nil
		}
		seed := firstViolation(count, func(seed uint64) bool { return broken(seed) != nil })
		if seed == count {
			t.Fatalf("%d seeds without a violation", count)
		}
		wrong := broken(seed)
		t.Logf("seed %d: %s: %s", seed, wrong.kind, wrong.text)
	})
}
