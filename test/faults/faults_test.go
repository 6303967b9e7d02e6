// Package faults kills and stops processes of the product at random moments under load, and lets the checker prove afterwards that nothing that
// was accepted is lost, nothing is doubled, every item has one outcome, and ClickHouse is exact.
package faults

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { harness.Main(m) }

// seed is that of FAULT_SEED, to repeat a run, or a random one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if text := os.Getenv("FAULT_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FAULT_SEED: %v", err)
		}
	}
	t.Logf("FAULT_SEED=%d repeats the moments and the load of this run", n)
	return n
}

// check lets everything be judged and written, and then asks the checker.
func check(t *testing.T, p *harness.Parts, l *load.Load) {
	t.Helper()
	sent := l.Stop()
	t.Logf("%d requests and records: %s", len(sent), l.Summary())
	began := time.Now()
	p.WaitDrained(90 * time.Second)
	t.Logf("no lag after %s", time.Since(began).Round(time.Millisecond))
	w, err := checker.Read(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d batches, %d items, %d outcomes", len(w.Batches), len(w.Items), len(w.Outcomes))
	if found := slices.Concat(w.Check(), w.CheckSent(sent), l.Wrong()); len(found) > 0 {
		t.Errorf("%d promises broken:\n%s", len(found), strings.Join(found, "\n"))
	}
	accepted := 0
	for _, s := range sent {
		if s.Verdict == harness.Accepted {
			accepted++
		}
	}
	if accepted < len(sent)/10 || len(w.Outcomes) < 100 {
		t.Errorf("only %d of %d requests were accepted: the run proves little", accepted, len(sent))
	}
}

// between waits for a random time.
func between(r *rand.Rand, least, most time.Duration) {
	time.Sleep(least + time.Duration(r.Int64N(int64(most-least))))
}

func TestUpSurvivesKills(t *testing.T) {
	if stack.OnApache() {
		t.Skip("counterfoil up has its own Kafka")
	}
	kills := 3
	if harness.Soak() {
		kills = 20
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 0))
	up := harness.StartUp(t, harness.Env("SESSION_TIMEOUT=2s", "TRANSACTION_TIMEOUT=2s", "SINK_SESSION_TIMEOUT=2s", "SINK_LEASE=2s"), harness.Args("--no-demo"))
	client := load.Prepare(t, &up.Parts, up.URL)
	l := load.Start(t, &up.Parts, "up", n, 4, client)
	for kill := range kills {
		between(r, 500*time.Millisecond, 3*time.Second)
		began := time.Now()
		up.Kill()
		up.Restart()
		t.Logf("kill %d: ready again after %s", kill+1, time.Since(began).Round(time.Millisecond))
	}
	for range 1 + kills/5 {
		between(r, 500*time.Millisecond, 2*time.Second)
		up.KillPart(embedded.ClickHouse)
		between(r, 500*time.Millisecond, 2*time.Second)
	}
	up.WaitReady()
	between(r, 500*time.Millisecond, time.Second)
	check(t, &up.Parts, l)
	up.Interrupt()
}

func TestClusterSurvivesKillsAndStops(t *testing.T) {
	kills, stops := 3, 2
	if harness.Soak() {
		kills, stops = 20, 15
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 0))
	c := harness.StartCluster(t, harness.Supervised())
	client := load.Prepare(t, &c.Parts, c.Ingest[0].URL)
	l := load.Start(t, &c.Parts, "cluster", n, 8, client, client.At(c.Ingest[1].URL))

	var faults []func()
	victims := func(i int) *harness.Copy { // process and sink in turn, one of the two
		return [][]*harness.Copy{c.Process, c.Sink}[i%2][r.IntN(2)]
	}
	for i := range kills {
		victim, pause := victims(i), time.Duration(r.Int64N(int64(4*time.Second)))
		faults = append(faults, func() {
			t.Logf("kill %s, start it again after %s", victim.Name(), pause.Round(time.Millisecond))
			victim.Kill()
			time.Sleep(pause)
			victim.Start()
		})
	}
	for i := range stops {
		victim := victims(i)
		pause := 3*time.Second + time.Duration(r.Int64N(int64(3*time.Second))) // sessions, leases and transactions last 2 s
		faults = append(faults, func() {
			t.Logf("stop %s for %s", victim.Name(), pause.Round(time.Millisecond))
			victim.Pause()
			time.Sleep(pause)
			victim.Resume()
		})
	}
	ingest := c.Ingest[r.IntN(2)]
	faults = append(faults, func() {
		t.Logf("kill %s", ingest.Name())
		ingest.Kill()
		ingest.Start()
	})
	r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		between(r, 500*time.Millisecond, 2500*time.Millisecond)
		fault()
	}
	between(r, time.Second, 2*time.Second)
	for _, copy := range c.All() {
		copy.WaitReady()
		if exits := copy.Exits(); len(exits) > 0 {
			t.Logf("%s ended by itself, and was started again: %s", copy.Name(), strings.Join(exits, "; "))
		}
	}
	check(t, &c.Parts, l)
}
