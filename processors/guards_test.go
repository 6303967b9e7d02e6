package processors

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestPositionOutsideTheLogIsAnError: what lies between it and the log is lost, or the topic is another one. Neither is jumped over.
func TestPositionOutsideTheLogIsAnError(t *testing.T) {
	w := newWorld(t)
	beyond := kadm.Offsets{}
	beyond.Add(kadm.Offset{Topic: schemas.KindOwnership, Partition: 1, At: 1000, LeaderEpoch: -1})
	if err := w.admin.CommitAllOffsets(t.Context(), Group(Upserts), beyond); err != nil {
		t.Fatal(err)
	}
	c := w.start(Upserts, nil)
	select {
	case err := <-c.done:
		c.done <- err
		if err == nil || !strings.Contains(err.Error(), "no usable position") {
			t.Errorf("ended with %v, want an error about the position", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a copy whose position lies outside the log goes on")
	}
}
