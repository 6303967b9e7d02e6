package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// Metadata of the group's commits. Where the topic is not in its first life, its epoch follows, see [CommittedEpoch].
const (
	// metaHeld begins it where a member owns the partition and may be inserting; the end of its lease follows, see held.
	metaHeld = "held"
	// metaReleased says that whoever committed has nothing under way: a successor need not wait. The commit that starts a topic's life
	// carries it as well, because nobody has written before.
	metaReleased = "released"

	metaEpoch = " epoch=%d base=%d"
)

// CommitMetadata is what a commit for the sink says that is made while its group has no members.
func CommitMetadata(released bool, e schemas.Epoch) string {
	if released {
		return withEpoch(metaReleased, e)
	}
	return withEpoch(metaHeld, e)
}

// withEpoch adds a topic's epoch, unless it is the first. So Kafka knows it as well, should ClickHouse lose its data.
func withEpoch(metadata string, e schemas.Epoch) string {
	if e == (schemas.Epoch{}) {
		return metadata
	}
	return metadata + fmt.Sprintf(metaEpoch, e.Number, e.Base)
}

// CommittedEpoch is the epoch that a commit of the sink's names.
func CommittedEpoch(metadata string) (e schemas.Epoch) {
	if i := strings.Index(metadata, " epoch="); i >= 0 {
		_, _ = fmt.Sscanf(metadata[i:], metaEpoch, &e.Number, &e.Base) // it is ours
	}
	return e
}

func isReleased(metadata string) bool {
	word, _, _ := strings.Cut(metadata, " ")
	return word == metaReleased
}

// held is the metadata of a commit whose member may insert until then, by ClickHouse's clock. A successor reads it because that clock may have been
// set back since: what it says then of a lease that begins now says nothing of one that began before.
func held(until time.Time) string {
	return metaHeld + " until " + until.UTC().Format(time.RFC3339Nano)
}

// heldUntil is the time in the metadata of a commit; the zero time where there is none.
func heldUntil(metadata string) time.Time {
	text, _ := strings.CutPrefix(metadata, metaHeld+" until ")
	text, _, _ = strings.Cut(text, " ")
	until, _ := time.Parse(time.RFC3339Nano, text) // zero after an error
	return until
}

// lease is the right to insert until a moment. It is the answer to: how long may a member go on that Kafka has just called an owner?
type lease struct {
	until time.Time // by ClickHouse's clock; the write_by of inserts
	local time.Time // by ours, not later than until: counted from before ClickHouse was asked for its time
}

// fits reports whether the lease leaves an insert at least margin.
func (l lease) fits(now time.Time, margin time.Duration) bool { return l.local.Sub(now) > margin }

// expire ends a lease that ClickHouse called over, whatever our clock says.
func (s *Sink) expire(limit time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lease.until.After(limit) {
		s.lease = lease{}
	}
}

// requestCommit asks the keeper for a commit now.
func (s *Sink) requestCommit() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// keep is the keeper: it commits after inserts, and otherwise often enough that the lease of an idle member does not run out.
func (s *Sink) keep() {
	for {
		timer := time.NewTimer(s.cfg.Lease / 3)
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
		err := s.commit(nil)
		s.lag()
		if err == nil || s.ctx.Err() != nil {
			continue
		}
		// A rebalance may be under way, or Kafka or ClickHouse away. Nothing is thrown away: positions stay, and if the partitions are not
		// ours any more, a callback says so.
		s.met.commitsRefused.Inc()
		s.log.Warn("sink could not commit, trying again", "error", err)
		wait := 100 * time.Millisecond
		var clock *clockError
		if errors.As(err, &clock) {
			wait = min(clock.by+time.Millisecond, s.cfg.Lease)
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(wait):
			s.requestCommit()
		}
	}
}

// clockError says that ClickHouse's clock went back. A lease by the new time would end before one that a predecessor may have by the old.
type clockError struct{ by time.Duration }

func (e *clockError) Error() string {
	return fmt.Sprintf("ClickHouse's clock went back by %s: no lease before it has caught up", e.by)
}

// commit commits how far the tables are, for all active partitions and those of taking, and renews the lease.
func (s *Sink) commit(taking []*part) error {
	if err := s.commitMu.lock(s.ctx); err != nil {
		return err
	}
	defer s.commitMu.unlock()
	if err := s.at("before commit", ""); err != nil {
		return err
	}
	s.mu.Lock()
	if s.draining && taking != nil {
		s.mu.Unlock()
		return errors.New("the sink is ending")
	}
	at := map[*part]int64{}
	for _, p := range s.parts {
		if p.active {
			at[p] = p.flushed()
		}
	}
	for _, p := range taking {
		if !p.gone {
			at[p] = p.flushed()
		}
	}
	s.mu.Unlock()
	if len(at) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Lease)
	defer cancel()
	// The order is the point: ClickHouse's time first, then the commit. Had the clock been read after it, a member that was expelled
	// between the two would hold a lease that its successor does not wait for.
	local := time.Now()
	asked, err := s.now(ctx)
	if err != nil {
		return err
	}
	if by := s.asked.Sub(asked); by > s.skew {
		s.met.clockBackwards.Inc()
		return &clockError{by}
	}
	s.asked = asked
	until := asked.Add(s.cfg.Lease)
	if err := s.send(ctx, at, held(until)); err != nil {
		return err
	}
	s.met.commit.Observe(time.Since(local).Seconds())
	s.met.renewals.Inc()
	s.mu.Lock()
	s.lease = lease{until: until, local: local.Add(s.cfg.Lease)}
	for p, offset := range at {
		p.committed = offset
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	return nil
}

// release commits partitions that have nothing under way, for good.
func (s *Sink) release(at map[*part]int64) error {
	if len(at) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.drainWait())
	defer cancel()
	if err := s.commitMu.lock(ctx); err != nil { // the keeper may be waiting for an answer
		return err
	}
	defer s.commitMu.unlock()
	if err := s.at("before release", ""); err != nil {
		return err
	}
	return s.send(ctx, at, metaReleased)
}

// send makes one OffsetCommit of all positions, fenced by the member's generation, with commitMu held. An error says that not all were
// taken, or that it is not known.
func (s *Sink) send(ctx context.Context, at map[*part]int64, metadata string) error {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for p, offset := range at {
		if offsets[p.topic] == nil {
			offsets[p.topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[p.topic][p.partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		// The request has its generation by now. Kafka does not check who owns a partition, only the generation: were a partition lost
		// before that was read, the request could carry a newer generation and be taken.
		s.mu.Lock()
		defer s.mu.Unlock()
		for p := range at {
			if p.gone {
				return fmt.Errorf("%s/%d was lost meanwhile", p.topic, p.partition)
			}
			if p.member != req.MemberID {
				s.stop(errExpelled)
				return errExpelled
			}
		}
		for i := range req.Topics {
			full := withEpoch(metadata, s.deps.Epochs[req.Topics[i].Topic])
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].Metadata = &full
			}
		}
		return nil
	})
	var err error
	s.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, cerr error) {
		if err = cerr; err != nil {
			return
		}
		answered := 0
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				answered++
				if perr := kerr.ErrorForCode(p.ErrorCode); perr != nil && err == nil {
					err = fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, perr)
				}
			}
		}
		if err == nil && answered != len(at) {
			err = fmt.Errorf("%d of %d partitions were answered", answered, len(at))
		}
	})
	if errors.Is(err, kerr.FencedInstanceID) {
		s.stop(s.fenced())
	}
	if err != nil {
		return fmt.Errorf("commit offsets: %w", err)
	}
	return nil
}
