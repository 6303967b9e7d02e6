package clickhouse

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// decode moves the records of one poll into the block under construction.
func (s *Sink) decode(fetches kgo.Fetches) error {
	s.decoding.Lock()
	defer s.decoding.Unlock()
	now := time.Now()
	var err error
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		s.mu.Lock()
		p := s.parts[topicPartition{f.Topic, f.Partition}]
		ok := p != nil && p.active
		if ok {
			p.end = max(p.end, f.HighWatermark)
		}
		s.mu.Unlock()
		switch {
		case err != nil || len(f.Records) == 0 || p == nil:
		case !ok:
			// Fetching is paused from the assignment until the take-over is done.
			err = fmt.Errorf("sink: records of %s/%d arrived before the partition was taken over", f.Topic, f.Partition)
		case len(p.waiting) > 0:
			p.waiting = append(p.waiting, f.Records...)
		default:
			err = s.decodePart(p, f.Records, now)
		}
	})
	for _, p := range s.waiting(now) {
		if err == nil {
			records := p.waiting
			p.waiting = nil
			err = s.decodePart(p, records, now)
		}
	}
	return err
}

// waiting are the partitions whose unknown schema may be known by now.
func (s *Sink) waiting(now time.Time) []*part {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*part
	for _, p := range s.parts {
		if len(p.waiting) > 0 && !now.Before(p.retryAt) {
			all = append(all, p)
		}
	}
	return all
}

// schemaRetry is how often a partition that waits for the registry tries again.
const schemaRetry = 200 * time.Millisecond

func (s *Sink) decodePart(p *part, records []*kgo.Record, now time.Time) error {
	b := s.blocks[p.block]
	if b.since.IsZero() {
		b.since = now
	}
	stamp := p.stamp
	for i, rec := range records {
		if rec.Offset < p.next {
			continue // before the commit: the client starts at a batch, or was paused in the middle of one
		}
		if !rec.Attrs.IsControl() {
			err := s.add(p, rec, now)
			if errors.Is(err, schemas.ErrSchemaPending) {
				// Neither good nor bad yet: the partition waits, the others go on.
				p.waiting, p.retryAt = records[i:], now.Add(schemaRetry)
				s.pause(p)
				break
			}
			if err != nil {
				return err
			}
		}
		p.next = rec.Offset + 1
		stamp = rec.Timestamp
	}
	b.next[p] = p.next
	s.mu.Lock()
	p.stamp = stamp
	s.mu.Unlock()
	return nil
}

// add appends a record's rows to the tables that do not have them yet. Only ErrSchemaPending and faults of our own come back.
func (s *Sink) add(p *part, rec *kgo.Record, now time.Time) error {
	last := len(p.dests) - 1 // the dead letters
	own := p.dests[:last]
	if last == 0 {
		own = p.dests // the topic dead_letters itself
	}
	b := s.blocks[p.block]
	var took [2]*fill // those that have a row of it; hardly a topic has more tables
	rows := took[:0]
	for _, d := range own {
		// A record that its table has passed is read all the same while its dead letter may be lacking: only so is it known for a bad one.
		has := rec.Offset < p.has[d]
		if has && rec.Offset < p.has[p.dests[last]] || d.spec.spread && d.shard != s.conn.shardOfKey(rec.Key) {
			continue
		}
		f, err := b.fill(d)
		if err != nil {
			return err
		}
		added, err := f.add(rec, p)
		var bad *schemas.BadRecordError
		if errors.As(err, &bad) {
			// All or nothing: the tables before this one may have taken it.
			for _, f := range rows {
				f.truncate(f.rows() - 1)
				b.rows--
			}
			return s.addDeadLetter(p, rec, bad, now)
		}
		if err != nil {
			return err
		}
		switch {
		case added && has:
			f.truncate(f.rows() - 1)
		case added:
			rows = append(rows, f)
			b.rows++
			b.bytes += len(rec.Value)
		}
	}
	return nil
}

func (s *Sink) addDeadLetter(p *part, rec *kgo.Record, bad *schemas.BadRecordError, now time.Time) error {
	s.met.deadLetters.WithLabelValues(p.topic, bad.Code).Inc()
	d := p.dests[len(p.dests)-1]
	if rec.Offset < p.has[d] {
		return nil
	}
	letter := deadLetter(rec, p.epoch, bad, now.UTC())
	data, err := schemas.DeadLetterSchema.Avro().AppendEncode(nil, letter)
	if err != nil {
		return fmt.Errorf("sink: encode the dead letter of %s/%d offset %d: %w", p.topic, p.partition, rec.Offset, err)
	}
	b := s.blocks[p.block]
	f, err := b.fill(d)
	if err != nil {
		return err
	}
	if err := f.addOwn(data, rec, p); err != nil {
		return fmt.Errorf("sink: dead letter of %s/%d offset %d: %w", p.topic, p.partition, rec.Offset, err)
	}
	b.rows++
	b.bytes += len(data)
	return nil
}

// fill is the block's part for a table.
func (b *block) fill(d *dest) (*fill, error) {
	if f := b.fills[d]; f != nil {
		return f, nil
	}
	f, err := d.takeFill()
	if err == nil {
		b.fills[d] = f
	}
	return f, err
}
