package checker

import (
	"fmt"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/test/harness"
)

// Sent is what a caller knows of a request, or of a record that it produced to a topic. Its marker is in every item: the caller's reference is
// marker#n, or, where the door has none, the source (HelloID), the description (Mediahawk) or the order number (Avon) is. All tries at one
// request, with the same idempotency key and body, are one.
type Sent struct {
	Marker  string
	Items   int
	Verdict harness.Verdict
	Told    time.Time // when the caller learned the verdict, or later
}

// Mark is the reference of the n-th item of what has that marker.
func Mark(marker string, n int) string { return fmt.Sprintf("%s#%d", marker, n) }

// markerOf is the marker in a reference; empty where there is none.
func markerOf(ref *string) string {
	if ref == nil {
		return ""
	}
	marker, _, ok := strings.Cut(*ref, "#")
	if !ok {
		return ""
	}
	return marker
}

// checkSent compares with what callers were told: what was accepted is there whole, once; what was refused is not there; where the caller has no
// answer it is there whole, once, or not at all. What is there and nobody sent is a problem too, where it bears a marker.
func (w *World) checkSent(p *problems, all []Sent) {
	p.begin("as the callers were told")
	type found struct {
		batches map[string]bool
		items   map[string]bool // by identity
	}
	byMarker := map[string]*found{}
	add := func(marker, batch, id string) {
		if marker == "" {
			return
		}
		f := byMarker[marker]
		if f == nil {
			f = &found{map[string]bool{}, map[string]bool{}}
			byMarker[marker] = f
		}
		f.batches[batch] = true
		f.items[id] = true
	}
	for i := range w.Items {
		if it := &w.Items[i]; !it.Misplaced { // its forwarded copy stands for it
			add(it.Marker, it.Batch, it.ID)
		}
	}
	for i := range w.Outcomes {
		if o := &w.Outcomes[i]; o.SourceOffset < 0 && o.Batch != nil {
			add(o.Marker, *o.Batch, o.ID)
		}
	}
	for i := range w.Records {
		if r := &w.Records[i]; r.Batch == "" { // what came through the API has an outcome
			add(r.Marker, "", r.ID)
		}
	}
	for _, s := range all {
		f := byMarker[s.Marker]
		delete(byMarker, s.Marker)
		switch {
		case f == nil && s.Verdict == harness.Accepted:
			p.add("%s was accepted and is not there", s.Marker)
		case f == nil:
		case s.Verdict == harness.Refused:
			p.add("%s was refused and is there: %d items", s.Marker, len(f.items))
		case len(f.batches) != 1:
			p.add("%s is there in %d batches", s.Marker, len(f.batches))
		case len(f.items) != s.Items:
			p.add("%s had %d items, %d are there", s.Marker, s.Items, len(f.items))
		}
	}
	for marker, f := range byMarker {
		p.add("nobody sent %s: %d items", marker, len(f.items))
	}
}
