package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// stepped gives the rig a ClickHouse clock that can be set ahead: what members read and what the constraint of the table ownership compares with.
// It returns what makes a member read it, and what sets it.
func (r *rig) stepped() (with func(*Sink), set func(ahead time.Duration)) {
	r.t.Helper()
	exec := func(sql string) {
		r.t.Helper()
		must(r.t, r.conn.any.Exec(context.Background(), strings.ReplaceAll(sql, "{db}", r.cfg.Database)))
	}
	// A constraint can look into a table of this engine, and into no other.
	const ahead = "toIntervalMillisecond(joinGet('{db}.clock', 'ahead', 1))"
	exec("CREATE TABLE {db}.clock (one UInt8, ahead Int64) ENGINE = Join(ANY, LEFT, one) SETTINGS join_any_take_last_row = 1")
	set = func(by time.Duration) {
		r.t.Helper()
		exec("INSERT INTO {db}.clock VALUES (1, " + strconv.FormatInt(by.Milliseconds(), 10) + ")")
	}
	set(0)
	var check string
	must(r.t, r.conn.any.QueryRow(context.Background(), strings.ReplaceAll(
		"SELECT extract(create_table_query, 'CONSTRAINT in_time CHECK (.*?)\\) ENGINE') FROM system.tables WHERE database = '{db}' AND name = 'ownership'", "{db}", r.cfg.Database)).Scan(&check))
	if !strings.Contains(check, "nowInBlock64(3)") {
		r.t.Fatalf("the constraint is %q", check)
	}
	exec("ALTER TABLE {db}.ownership DROP CONSTRAINT in_time")
	exec("ALTER TABLE {db}.ownership ADD CONSTRAINT in_time CHECK " + strings.ReplaceAll(check, "nowInBlock64(3)", "(nowInBlock64(3) + "+ahead+")"))
	sql := strings.ReplaceAll("SELECT now64(3, 'UTC') + "+ahead, "{db}", r.cfg.Database)
	return func(s *Sink) {
		s.clock = func(ctx context.Context) (now time.Time, err error) {
			err = r.conn.any.QueryRow(ctx, sql).Scan(&now)
			return now, err
		}
	}, set
}

// ClickHouse's clock is stepped by an hour, ahead and back, while members are expelled, held up for longer than a lease just before they send a
// block, and replaced.
func TestClockIsSteppedByAnHour(t *testing.T) {
	seed, steps := rand.Uint64(), 3
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	if os.Getenv("SOAK") != "" {
		steps = 100
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	with, set := r.stepped()
	var holdUp atomic.Bool
	member := func() *running {
		return r.start(func(s *Sink) {
			with(s)
			s.hook = func(ctx context.Context, at, table string) error {
				if at == "before send" && table == "ownership" && holdUp.CompareAndSwap(true, false) {
					time.Sleep(s.cfg.Lease + s.cfg.Session + time.Second)
				}
				return nil
			}
		})
	}
	end := func(s *running) {
		if err := s.stop(); err != nil && !errors.Is(err, context.Canceled) { // it may not have begun
			t.Error(err)
		}
	}
	members := [2]*running{member(), member()}
	stop := r.flow()
	for step := range steps {
		i := rng.IntN(2)
		switch rng.IntN(4) {
		case 0:
			r.expel(members[i])
		case 1:
			holdUp.Store(true)
			time.Sleep(100 * time.Millisecond)
			r.expel(members[i])
		case 2:
			end(members[i])
			members[i] = member()
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		// Nobody inserts before the clock is again where it was when the last lease was given, but who is ended in good order and started again.
		set(time.Duration((step+1)%2) * time.Hour)
		time.Sleep(time.Duration(500+rng.IntN(3000)) * time.Millisecond)
	}
	set(time.Hour)
	r.exact(stop())
	for _, m := range members {
		end(m)
	}
}

// A member that was given its lease before ClickHouse's clock was set back holds a write_by that is an hour away, and the table would take its
// block. Its successor inserts nothing before the clock is there again; it finds the rows, if they got in.
func TestSuccessorOfAZombieWaitsForAClockThatWentBack(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		t.Run(fmt.Sprintf("the insert arrives %t", arrives), func(t *testing.T) {
			r := newRig(t)
			with, set := r.stepped()
			set(time.Hour)
			old, g := r.zombie(6*time.Second, with)
			set(0)
			r.start(with)
			time.Sleep(4 * time.Second) // twice the successor's lease
			r.counts(100)
			if arrives {
				g.open()
				r.exact(200)
			}
			set(time.Hour + 10*time.Second)
			r.exact(200)
			if !arrives {
				g.open()
			}
			for end := time.Now().Add(20 * time.Second); old.inserting("ownership"); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the insert of the zombie does not end")
				}
			}
			r.counts(200)
		})
	}
}
