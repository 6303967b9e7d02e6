package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// dest is a table on a shard, with the writer that inserts into it. Rows of a partition enter it in the order of their offsets: the queue
// is worked off from its head, and nothing passes an entry that the table refuses.
type dest struct {
	sink   *Sink
	spec   *tableSpec
	shard  int
	insert string // the statement, up to the columns
	free   []*fill

	// Under Sink.mu.
	queue   []*entry // the head is being inserted
	refused error    // why the last attempt failed, until one succeeds
	cancel  context.CancelFunc
}

// entry is the part of a block that goes to one table: its rows, if any, and how far the partitions are when they are in.
type entry struct {
	fill  *fill // nil: no rows
	next  map[*part]int64
	bytes int

	// Of the writer: how many rows are in the table, and of these how many have been moved.
	inserted, moved int
}

func (e *entry) empty() bool { return e.fill == nil || e.fill.rows() == 0 }

func newDest(s *Sink, spec *tableSpec, shard int) (*dest, error) {
	d := &dest{sink: s, spec: spec, shard: shard}
	f, err := s.newFill(spec)
	if err != nil {
		return nil, err
	}
	d.free = append(d.free, f)
	d.insert = "INSERT INTO " + s.conn.local(spec.name)
	return d, nil
}

// takeFill gives an empty fill out. Called by Run only.
func (d *dest) takeFill() (*fill, error) {
	d.sink.mu.Lock()
	defer d.sink.mu.Unlock()
	if n := len(d.free); n > 0 {
		f := d.free[n-1]
		d.free = d.free[:n-1]
		return f, nil
	}
	return d.sink.newFill(d.spec)
}

func (s *Sink) newFill(spec *tableSpec) (*fill, error) {
	f, err := newFill(spec, &s.cfg, s.deps.Registry)
	if err == nil && f.key != nil {
		f.check = s.deps.Check
	}
	return f, err
}

// holds reports whether the queue has rows of a partition, or a position that it waits for. Under Sink.mu.
func (d *dest) holds(p *part) bool {
	for _, e := range d.queue {
		if _, ok := e.next[p]; ok {
			return true
		}
	}
	return false
}

// advance notes that the table has everything of these partitions. Under Sink.mu.
func (d *dest) advance(next map[*part]int64) {
	for p, n := range next {
		p.done[d] = max(p.done[d], n)
	}
}

// run is the writer: it inserts the queue's entries one after the other until the sink ends.
func (d *dest) run() {
	s := d.sink
	backoff := time.Duration(0)
	for {
		s.mu.Lock()
		for len(d.queue) == 0 && s.ctx.Err() == nil {
			s.changed.Wait()
		}
		if s.ctx.Err() != nil {
			s.mu.Unlock()
			return
		}
		e := d.queue[0]
		s.mu.Unlock()

		err := d.write(e)

		s.mu.Lock()
		if err == nil {
			d.advance(e.next)
			d.queue[0] = nil
			d.queue = d.queue[1:]
			if e.fill != nil {
				e.fill.reset()
				d.free = append(d.free, e.fill)
			}
			d.refused = nil
		} else if s.ctx.Err() == nil {
			// The partitions of this table wait; all others go on.
			d.refused = err
			s.pauseAll(d)
		}
		s.changed.Broadcast()
		s.mu.Unlock()
		if err == nil {
			backoff = 0
			s.requestCommit()
			continue
		}
		if s.ctx.Err() != nil {
			return
		}
		backoff = min(max(2*backoff, 100*time.Millisecond), 5*time.Second)
		s.met.retries.WithLabelValues(d.spec.name).Inc()
		s.log.Error("table refuses rows, trying again", "table", d.spec.name, "after", backoff, "error", err)
		select {
		case <-s.ctx.Done():
		case <-time.After(backoff):
		}
	}
}

// outcome is what is known of an INSERT after it.
type outcome uint8

const (
	inserted outcome = iota // ClickHouse said so
	nothing                 // no row got in: it was never sent, or ClickHouse refused it by the constraint
	ended                   // ClickHouse answered with an error: the INSERT is over, but its rows may be in
	unknown                 // no answer: it may still be at work, or even begin
)

// write gets an entry's rows into the table, and the tables that follow it: nil when they are there, exactly once in a log table. What is known
// to be in is not inserted again where only the followers fail.
func (d *dest) write(e *entry) error {
	s := d.sink
	for lates := 0; ; {
		limit, ctx, cancel, err := d.begin(e)
		if err != nil {
			return err
		}
		if e.empty() {
			return nil
		}
		if e.inserted > 0 {
			s.mu.Lock()
			d.cancel = nil
			s.mu.Unlock()
			cancel()
			return d.move(e)
		}
		if err := s.at("begun", d.spec.name); err != nil {
			return err
		}
		rows, start, id := e.fill.rows(), time.Now(), d.queryID()
		result, err := d.send(ctx, e.fill, id, limit)
		s.mu.Lock()
		d.cancel = nil
		s.mu.Unlock()
		cancel()
		if result == inserted {
			s.met.inserted(d.spec.name, rows, time.Since(start))
			e.inserted = rows
			return d.move(e)
		}
		if d.spec.state {
			// Rows of state tables may come again.
			return err
		}
		if isLate(err) {
			// The lease had passed on the way: the next round waits for a new one.
			s.met.late.WithLabelValues(d.spec.name).Inc()
			s.log.Warn("insert came too late and was refused", "table", d.spec.name, "rows", rows)
			s.expire(limit)
			if lates++; lates < 3 {
				continue
			}
			return err
		}
		if result == nothing {
			return err
		}
		if result == unknown {
			s.met.unknown.WithLabelValues(d.spec.name).Inc()
			s.log.Warn("outcome of an insert is unknown", "table", d.spec.name, "rows", rows, "error", err)
		}
		if s.ctx.Err() != nil {
			return err
		}
		// It may take as long as the lease: the partitions of this table wait, all others go on.
		s.mu.Lock()
		d.refused = err
		s.pauseAll(d)
		s.changed.Broadcast()
		s.mu.Unlock()
		// Not before this is known may the rows be sent again: a question that fails is asked until it is answered.
		there, rerr := d.resolve(e.fill, id, limit, result)
		for rerr != nil {
			s.log.Warn("outcome of an insert is still unknown, asking again", "table", d.spec.name, "rows", rows, "error", rerr)
			select {
			case <-s.ctx.Done():
				return errors.Join(err, rerr)
			case <-time.After(200 * time.Millisecond):
			}
			there, rerr = d.resolve(e.fill, id, limit, result)
		}
		if there {
			s.met.inserted(d.spec.name, rows, time.Since(start))
			return nil
		}
		if result == ended {
			return err
		}
	}
}

// begin waits for a lease that an insert fits into, drops rows of partitions that are gone, and makes the insert known to giveUp, all in
// one step under mu: after giveUp has looked, no insert of its partitions begins.
func (d *dest) begin(e *entry) (limit time.Time, ctx context.Context, cancel context.CancelFunc, err error) {
	s := d.sink
	if err := s.at("before insert", d.spec.name); err != nil {
		return limit, nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.ctx.Err() != nil {
			return limit, nil, nil, context.Cause(s.ctx)
		}
		if e.fill != nil {
			e.fill.dropGone()
		}
		if e.empty() {
			return limit, nil, nil, nil
		}
		if d.spec.state || s.lease.fits(time.Now(), s.cfg.Lease/4) {
			break
		}
		s.requestCommit()
		s.changed.Wait()
	}
	// A connection may fall silent. What has not been answered by then is looked for in the table.
	ends := s.lease.local
	if d.spec.state {
		ends = time.Now().Add(s.cfg.Lease)
	}
	ctx, cancel = context.WithDeadline(s.ctx, ends.Add(s.answerWait))
	d.cancel = cancel
	return s.lease.until, ctx, cancel, nil
}

// queryPrefix marks the INSERTs of a table in system.processes.
func (d *dest) queryPrefix() string {
	return "counterfoil-sink/" + d.sink.conn.cfg.Database + "." + d.spec.name + "/"
}

func (d *dest) queryID() string { return d.queryPrefix() + uuid.NewString() }

// send makes one INSERT of one block.
func (d *dest) send(ctx context.Context, f *fill, id string, limit time.Time) (outcome, error) {
	s := d.sink
	settings := ch.Settings{
		"async_insert": 0,
		// Repeated blocks are our business: ClickHouse's own deduplication forgets.
		"insert_deduplicate": 0,
		// A sender that was stopped in the middle does not hold a successor up for long.
		"receive_timeout": int((s.cfg.Lease + s.answerWait) / time.Second),
	}
	if s.conn.cfg.Cluster != "" {
		settings["insert_quorum"] = "auto"
	}
	ctx = ch.Context(ctx, ch.WithQueryID(id), ch.WithSettings(settings))
	result := nothing
	err := s.conn.onShard(d.shard, func(conn driver.Conn) error {
		// Every INSERT names its columns, so that an older binary runs on newer tables. Those without any value are left out: the table's
		// default for them is what a row without a value has, and most columns of a wide table are such.
		names, cols := f.filled()
		if !d.spec.state {
			names = append(names, columnWriteBy)
		}
		batch, err := conn.PrepareBatch(ctx, d.insert+" (`"+strings.Join(names, "`, `")+"`)")
		if err != nil {
			return err // no row was sent
		}
		for i, c := range cols {
			c.settle(f.rows())
			if err := c.send(batch.Column(i)); err != nil {
				return errors.Join(fmt.Errorf("column %s: %w", names[i], err), batch.Abort())
			}
		}
		if !d.spec.state {
			if err := batch.Column(len(cols)).Append(f.writeBy(limit)); err != nil {
				return errors.Join(err, batch.Abort())
			}
		}
		if err := s.at("before send", d.spec.name); err != nil {
			return errors.Join(err, batch.Abort())
		}
		result = unknown
		err = batch.Send()
		if err == nil {
			err = s.at("after send", d.spec.name)
		}
		return err
	})
	var exception *ch.Exception
	switch {
	case err == nil:
		return inserted, nil
	case result == unknown && errors.As(err, &exception):
		result = ended
		if isLate(err) {
			result = nothing
		}
	}
	return result, fmt.Errorf("insert %d rows into %s: %w", f.rows(), d.spec.name, err)
}

// isLate reports that the table's constraint in_time refused a block.
func isLate(err error) bool {
	const violatedConstraint = 469
	var exception *ch.Exception
	return errors.As(err, &exception) && exception.Code == violatedConstraint && strings.Contains(exception.Message, "in_time")
}

// resolve finds out whether an INSERT got its rows in. It returns when that can no longer change: where no answer came, when ClickHouse's
// clock has passed write_by, after which a block would be refused, and when the INSERT is not at work any more.
func (d *dest) resolve(f *fill, id string, limit time.Time, result outcome) (there bool, err error) {
	s := d.sink
	if result == unknown {
		if err := s.waitFor(s.ctx, limit.Add(s.skew)); err != nil {
			return false, err
		}
	}
	if err := d.waitGone(s.ctx, "query_id = ?", id); err != nil {
		return false, err
	}
	// The block is one part: where one of its rows is, all are. The last row of any partition that is still ours tells.
	s.mu.Lock()
	f.dropGone()
	if f.rows() == 0 {
		s.mu.Unlock()
		return true, nil
	}
	last := f.rows() - 1
	p, offset := f.owners[last], f.offset.vals[last]
	s.mu.Unlock()
	has, err := s.ask(s.ctx, d, p.topic, p.epoch, map[int32]int64{p.partition: offset})
	if err != nil {
		return false, err
	}
	highest, ok := has[p.partition]
	return ok && highest >= offset, nil
}

// at is where a test may stand.
func (s *Sink) at(point, table string) error {
	if s.hook == nil {
		return nil
	}
	return s.hook(s.ctx, point, table)
}
