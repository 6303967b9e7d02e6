package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/counterfoil/counterfoil/schemas"
)

// judges are the consumer groups that judge items, with their topics.
var judges = []struct {
	group  string
	topics []string
}{
	{schemas.GroupUpserts, []string{schemas.KindOwnership}},
	{schemas.GroupValidation, []string{schemas.KindCustomerEvents, schemas.KindReferrals, schemas.KindTransactions}},
	{schemas.GroupMatching, []string{schemas.KindSales}},
	{schemas.GroupRequests, []string{schemas.Requests}}, // nothing of what waits there is judged
}

const (
	backlogEvery = time.Second      // between two looks
	backlogStale = 10 * time.Second // after which the last look says nothing any more
)

// backlog knows how old the oldest unjudged item is. Once a second it notes the high watermark of each partition of the item topics, and
// drops the notes that the judging group's committed offset has passed: the oldest one left tells the age, to a second. Upstream producers'
// records count as well.
type backlog struct {
	s *Service

	mu     sync.Mutex
	notes  map[string]map[int32][]note
	looked time.Time // last successful look
}

// note is the high watermark of a partition at a time: every record below it is at least that old.
type note struct {
	at  time.Time
	end int64
}

func newBacklog(s *Service) *backlog { return &backlog{s: s, notes: map[string]map[int32][]note{}} }

func (b *backlog) run(ctx context.Context, rt *routing) error {
	tick := time.NewTicker(backlogEvery)
	defer tick.Stop()
	for {
		err := b.look(ctx, rt)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			b.mu.Lock()
			b.looked = time.Now()
			b.mu.Unlock()
		} else {
			b.s.log.Warn("look at the backlog", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (b *backlog) look(ctx context.Context, rt *routing) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now := time.Now()
	ends, err := rt.admin.ListEndOffsets(ctx, append(slices.Clone(itemKinds), schemas.Requests)...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("ends of the item topics: %w", err)
	}
	for _, j := range judges {
		committed, err := rt.admin.FetchOffsets(ctx, j.group)
		if err == nil {
			err = committed.Error()
		}
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // a group that nobody has joined yet has judged nothing
			return fmt.Errorf("committed offsets of %s: %w", j.group, err)
		}
		b.mu.Lock()
		for _, topic := range j.topics {
			for partition, end := range ends[topic] {
				at := int64(0) // without a commit nothing is judged
				if c, ok := committed.Lookup(topic, partition); ok {
					at = c.At
				}
				b.note(topic, partition, note{now, end.Offset}, at)
			}
		}
		b.mu.Unlock()
	}
	return nil
}

// note adds a note and drops those that are passed. The caller holds mu. A partition has at most one note for each second of the limit that
// matters, because older ones than that all say the same.
func (b *backlog) note(topic string, partition int32, n note, committed int64) {
	if b.notes[topic] == nil {
		b.notes[topic] = map[int32][]note{}
	}
	notes := b.notes[topic][partition]
	if len(notes) == 0 || n.end > notes[len(notes)-1].end {
		notes = append(notes, n)
	}
	passed := 0
	for passed < len(notes) && notes[passed].end <= committed {
		passed++
	}
	notes = append(notes[:0], notes[passed:]...)
	if most := int(2*b.s.cfg.BacklogLimit/backlogEvery) + 2; len(notes) > most {
		notes[most-1] = notes[len(notes)-1]
		notes = notes[:most]
	}
	b.notes[topic][partition] = notes
}

// age of the oldest unjudged item; 0: there is none.
func (b *backlog) age() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var oldest time.Time
	for _, partitions := range b.notes {
		for _, notes := range partitions {
			if len(notes) > 0 && (oldest.IsZero() || notes[0].at.Before(oldest)) {
				oldest = notes[0].at
			}
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return time.Since(oldest)
}

// refuse is the error for a new batch while the backlog is too old.
func (b *backlog) refuse() *Error {
	if age := b.age(); age > b.s.cfg.BacklogLimit {
		return busy("backlog", "items wait too long to be judged; nothing was accepted, try again later", nil)
	}
	return nil
}

// ready is nil while the backlog is known and young.
func (b *backlog) ready() error {
	if age := b.age(); age > b.s.cfg.BacklogLimit {
		return fmt.Errorf("the oldest unjudged item is %s old", age.Truncate(time.Second))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.looked) > backlogStale {
		return errors.New("the backlog is not known; the log says why")
	}
	return nil
}
