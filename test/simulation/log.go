package simulation

import "sort"

// tx is a transaction of a producer.
type tx struct {
	committed bool // decided so; otherwise open or aborted
	over      bool // decided
}

// entry is a place in a log.
type entry struct {
	offset  int64
	tx      *tx // nil: not in a transaction
	control bool
	value   any
}

// plog is the log of one partition. Its offsets have gaps where markers lie, and where compaction has taken records out.
type plog struct {
	entries []entry
	next    int64 // the high watermark
	open    []openTx
	grown   *signal
}

type openTx struct {
	tx    *tx
	first int64
}

func (l *plog) append(x *tx, value any) int64 {
	offset := l.next
	l.next++
	l.entries = append(l.entries, entry{offset: offset, tx: x, value: value})
	if x != nil && !l.has(x) {
		l.open = append(l.open, openTx{x, offset})
	}
	l.grown.give()
	return offset
}

func (l *plog) has(x *tx) bool {
	for _, o := range l.open {
		if o.tx == x {
			return true
		}
	}
	return false
}

// mark ends a transaction in this partition: the marker says how it was decided.
func (l *plog) mark(x *tx) {
	for i, o := range l.open {
		if o.tx == x {
			l.open = append(l.open[:i], l.open[i+1:]...)
			l.entries = append(l.entries, entry{offset: l.next, tx: x, control: true})
			l.next++
			l.grown.give()
			return
		}
	}
}

// skip leaves a gap.
func (l *plog) skip(n int64) { l.next += n }

// stable is the last stable offset: the end of what a committed read sees.
func (l *plog) stable() int64 {
	end := l.next
	for _, o := range l.open {
		end = min(end, o.first)
	}
	return end
}

// read returns at most n entries at or above from, markers included. A committed read ends at the last stable offset and leaves out what
// was aborted.
func (l *plog) read(from int64, n int, committed bool) []entry {
	end := l.next
	if committed {
		end = l.stable()
	}
	var got []entry
	at := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].offset >= from })
	for ; at < len(l.entries) && l.entries[at].offset < end && len(got) < n; at++ {
		if e := &l.entries[at]; !committed || e.control || e.tx == nil || e.tx.committed {
			got = append(got, *e)
		}
	}
	return got
}
