package clickhouse

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// The answer to an insert is lost, and the questions after it fail for a while: the rows are not sent again before the table has been asked.
func TestRowsAreNotSentAgainWhileNobodyAnswers(t *testing.T) {
	r := newRig(t)
	var lost atomic.Bool
	var silentUntil atomic.Int64
	s := r.start(func(s *Sink) {
		clock := s.clock
		s.clock = func(ctx context.Context) (time.Time, error) {
			if time.Now().UnixNano() < silentUntil.Load() {
				return time.Time{}, errors.New("no answer")
			}
			return clock(ctx)
		}
		s.hook = func(_ context.Context, at, table string) error {
			if at == "after send" && table == "ownership" && lost.CompareAndSwap(false, true) {
				silentUntil.Store(time.Now().Add(3 * time.Second).UnixNano())
				return errors.New("the answer was lost")
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.exact(100)
	r.produce(r.ownerships(100, 200)...)
	r.exact(200)
	if !lost.Load() {
		t.Error("no answer was lost")
	}
	must(t, s.stop())
}

// A bad record lies before a good one, and the table took the good one while the dead letters refused theirs. Whoever takes over finds that the
// table has passed the bad record, and writes its dead letter all the same.
func TestDeadLetterOfARecordThatItsTableHasPassed(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("dead_letters")+" ADD CONSTRAINT closed CHECK offset < 0"))
	header := r.encode(schemas.Batches, &schemas.BatchHeader{Tenant: "acme", Key: "0123456789abcdef0123456789abcdef", Kind: schemas.KindTransactions, AcceptedAt: time.Now()})
	r.produce(&kgo.Record{Topic: schemas.Batches, Value: []byte{0}}, &kgo.Record{Topic: schemas.Batches, Value: header})
	r.wait("1", "SELECT count() FROM {db}.batches")
	must(t, s.stop())
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("dead_letters")+" DROP CONSTRAINT closed"))
	r.start(nil)
	r.wait("1", "SELECT count() FROM {db}.dead_letters")
	if got := r.query("SELECT count() FROM {db}.batches"); got != "1" {
		t.Errorf("%s batches", got)
	}
}
