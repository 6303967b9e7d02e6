package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

// keyedAnswer is what a request with an Idempotency-Key was answered.
type keyedAnswer struct {
	status   int
	body     string
	replayed bool
}

// postKeyed sends changes of ownership with an Idempotency-Key.
func postKeyed(ctx context.Context, c *harness.Client, key, body string) (keyedAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/api/v1/productownership/batch", strings.NewReader(body))
	if err != nil {
		return keyedAnswer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	req.GetBody = nil // or net/http sends it again by itself where a connection breaks, and the second one's answer is taken for the first one's
	req.SetBasicAuth(c.Key.ID, c.Key.Secret)
	res, err := c.HTTP.Do(req)
	if err != nil {
		return keyedAnswer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return keyedAnswer{res.StatusCode, string(text), res.Header.Get("Idempotent-Replayed") == "true"}, err
}

// increments is a body that adds one to two products of a user, each time that it has an effect.
func increments(user string) string {
	return fmt.Sprintf(`[{"UserName":%[1]q,"ProductSKU":"A","IncreaseQuantityBy":1},{"UserName":%[1]q,"ProductSKU":"B","IncreaseQuantityBy":1}]`, user)
}

// onceEach fails where a user has anything but one of each product, or where the log has another number of batches.
func onceEach(t *testing.T, c *harness.Cluster, users []string) {
	t.Helper()
	c.WaitDrained(90 * time.Second)
	w := checker.Prove(t, &c.Parts, nil)
	if len(w.Batches) != len(users) {
		t.Errorf("%d batches of %d requests", len(w.Batches), len(users))
	}
	outcomes := map[string]int{}
	for i := range w.Outcomes {
		if o := w.Outcomes[i].Ownership; o != nil {
			outcomes[o.UserName]++
			if o.Quantity != 1 {
				t.Errorf("%s has %d of %s", o.UserName, o.Quantity, o.ProductSKU)
			}
		}
	}
	for _, user := range users {
		if outcomes[user] != 2 {
			t.Errorf("%d outcomes about %s, want 2", outcomes[user], user)
		}
	}
}

// Of two requests with one key that race at two copies of ingest, one has an effect, and both are answered alike.
func TestRacingRequestsWithOneKey(t *testing.T) {
	const pairs, atOnce = 200, 8
	c := harness.StartCluster(t)
	client := harness.NewClient(c.Ingest[0].URL, c.CreateKey("race"))
	clients := [2]*harness.Client{client, client.At(c.Ingest[1].URL)}
	for _, one := range clients { // the key opens both
		one.LogIn(t)
	}
	var users []string
	next := make(chan string)
	var workers sync.WaitGroup
	var good atomic.Int32
	for range atOnce {
		workers.Go(func() {
			for user := range next {
				var answers [2]keyedAnswer
				var errs [2]error
				var both sync.WaitGroup
				var again atomic.Bool // one was told that it is not known yet, or not judged, as may be on a busy machine
				for i := range clients {
					both.Go(func() {
						for deadline := time.Now().Add(time.Minute); ; again.Store(true) {
							answers[i], errs[i] = postKeyed(t.Context(), clients[i], user, increments(user))
							if s := answers[i].status; s != http.StatusServiceUnavailable && s != http.StatusAccepted || time.Now().After(deadline) {
								return
							}
						}
					})
				}
				both.Wait()
				a, b := answers[0], answers[1]
				switch {
				case errors.Join(errs[:]...) != nil || a.status != 200:
					t.Errorf("%s: status %d, %v: %s", user, a.status, errors.Join(errs[:]...), a.body)
				case a.status != b.status || a.body != b.body:
					t.Errorf("%s is answered %d %s and %d %s", user, a.status, a.body, b.status, b.body)
				case a.replayed == b.replayed && !(again.Load() && a.replayed):
					t.Errorf("%s: both say replayed %t", user, a.replayed)
				default:
					good.Add(1)
				}
			}
		})
	}
	for i := range pairs {
		users = append(users, fmt.Sprint("user-", i))
		next <- users[i]
	}
	close(next)
	workers.Wait()
	if good.Load() != pairs {
		t.Errorf("%d of %d pairs are as they should be", good.Load(), pairs)
	}
	if conflict, err := postKeyed(t.Context(), client, users[0], increments("somebody else")); err != nil || conflict.status != 422 {
		t.Errorf("another body: status %d, %v: %s", conflict.status, err, conflict.body)
	}
	onceEach(t, c, users)
}

// A copy that is killed with -9 between the acceptance of a request and its answer leaves it with one effect, whatever the caller does next
// at another copy: it sends the request again, until it is answered.
func TestKilledBetweenAcceptanceAndAnswer(t *testing.T) {
	kills := 5
	if harness.Soak() {
		kills = 50
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 1))
	c := harness.StartCluster(t)
	client := harness.NewClient(c.Ingest[0].URL, c.CreateKey("kill"))
	client.LogIn(t)
	other := client.At(c.Ingest[1].URL)
	users := []string{"usual-1", "usual-2", "usual-3"}
	usual := usualTime(t, client, users)
	var answered, repeated int
	t.Logf("a request usually takes %s", usual.Round(100*time.Microsecond))
	for i := range kills {
		// The victim is killed within the time that the request usually takes, so that some are killed before and some after the commit.
		victim, user := [...]*harness.Copy{c.Ingest[0], c.Process[i/2%2]}[i%2], fmt.Sprint("user-", i)
		users = append(users, user)
		after := time.Duration(r.Int64N(int64(usual) + 1))
		first := make(chan keyedAnswer, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			a, _ := postKeyed(ctx, client, user, increments(user)) // without an answer it is of status 0
			first <- a
		}()
		time.Sleep(after)
		victim.Kill()
		victim.Start()
		again := retried(t, other, user)
		a := <-first
		t.Logf("%s killed after %s: answered %d, then %d, replayed %t", victim.Name(), after.Round(100*time.Microsecond), a.status, again.status, again.replayed)
		if a.status == 200 {
			answered++
			if a.body != again.body || a.replayed == again.replayed {
				t.Errorf("answered %s, replayed %t, and then %s, replayed %t", a.body, a.replayed, again.body, again.replayed)
			}
		}
		if again.replayed {
			repeated++
		}
		if !bytes.Contains([]byte(again.body), []byte(`"Quantity":1`)) {
			t.Errorf("answered %s", again.body)
		}
		victim.WaitReady()
	}
	t.Logf("of %d first requests %d were answered, and %d second ones found that the first had been accepted", kills, answered, repeated)
	onceEach(t, c, users)
}

// usualTime is how long a request with a key takes to its answer, when it is not the first that a copy serves.
func usualTime(t *testing.T, c *harness.Client, users []string) (took time.Duration) {
	t.Helper()
	for _, user := range users {
		began := time.Now()
		if a := retried(t, c, user); a.replayed {
			t.Fatal("the first request with its key is replayed")
		}
		took = time.Since(began)
	}
	return took
}

// retried sends a request until it has an answer that is final.
func retried(t *testing.T, c *harness.Client, user string) (answer keyedAnswer) {
	t.Helper()
	harness.Eventually(t, time.Minute, func() string {
		var err error
		answer, err = postKeyed(t.Context(), c, user, increments(user))
		switch {
		case err != nil:
			return err.Error()
		case answer.status != http.StatusOK:
			return fmt.Sprintf("status %d: %s", answer.status, answer.body)
		}
		return ""
	})
	return answer
}
