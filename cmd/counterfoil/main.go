// Command counterfoil takes batches of business events, judges every item exactly once, carries the outcomes back to the caller and keeps
// them in ClickHouse.
//
// One binary has all roles. `counterfoil up` runs everything on this machine with an embedded Kafka, schema registry and ClickHouse;
// `ingest`, `process` and `sink` run one role each against real servers, in as many copies as are wanted, after `migrate` has prepared
// them. Each subcommand is one file of this package, the one that wires the others together. Settings are read from the environment here and nowhere
// else (but cmd/embedded looks for LIBCHDB).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/counterfoil/counterfoil/cmd/embedded"
)

// command is one subcommand.
type command struct {
	name    string
	args    string // of the usage line
	summary string // one line for the list
	help    string // what --help teaches; examples included
	run     func(ctx context.Context, app *app, args []string) error
	flags   func(*flag.FlagSet) // registers flags; nil: none
}

// app is what a subcommand needs of its surroundings, so that tests can give it others.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
}

// errUsage makes the exit code 2; its text has been printed.
var errUsage = errors.New("usage")

// exitError is a failure with an exit code of its own, which the command's help names.
type exitError struct {
	code int
	error
}

func main() {
	embedded.RunChild() // does not return in a process that was started as an embedded part
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run runs the subcommand that args name and returns the exit code: 0, 1 for a failure, 2 for wrong usage, or an exitError's.
func run(ctx context.Context, app *app, args []string) int {
	commands := commands()
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		if len(args) > 1 {
			return run(ctx, app, []string{args[1], "--help"})
		}
		usage(app.stdout, commands)
		return 0
	}
	i := slices.IndexFunc(commands, func(c *command) bool { return c.name == args[0] })
	if i < 0 {
		fmt.Fprintf(app.stderr, "counterfoil: there is no command %q\n\n", args[0])
		usage(app.stderr, commands)
		return 2
	}
	cmd := commands[i]
	flags := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if cmd.flags != nil {
		cmd.flags(flags)
	}
	rest, err := parse(flags, args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		commandHelp(app.stdout, cmd, flags)
		return 0
	case err != nil:
		fmt.Fprintf(app.stderr, "counterfoil %s: %v\nTry: counterfoil %s --help\n", cmd.name, err, cmd.name)
		return 2
	}
	switch err := cmd.run(ctx, app, rest); {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(app.stderr, "counterfoil %s: %v\nTry: counterfoil %s --help\n", cmd.name, err, cmd.name)
		return 2
	default:
		fmt.Fprintf(app.stderr, "counterfoil %s: %v\n", cmd.name, err)
		var own *exitError
		if errors.As(err, &own) {
			return own.code
		}
		return 1
	}
}

// commands lists the subcommands in the order in which help shows them.
func commands() []*command {
	return []*command{
		upCommand(), migrateCommand(), ingestCommand(), processCommand(), sinkCommand(),
		configCommand(), keysCommand(), analystsCommand(), sendCommand(), tailCommand(),
		doctorCommand(), lagCommand(), auditCommand(), replayCommand(), adoptCommand(),
	}
}

func usage(w io.Writer, commands []*command) {
	fmt.Fprint(w, `Counterfoil judges batches of business events, item by item and exactly once.

Usage: counterfoil COMMAND [flags]

`)
	for _, c := range commands {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, `
Start with:  counterfoil up            (everything on this machine, with demo data and curl lines to try)
Settings are environment variables:    counterfoil config lists them all
More about one command:                counterfoil COMMAND --help
`)
}

func commandHelp(w io.Writer, c *command, flags *flag.FlagSet) {
	fmt.Fprintf(w, "Usage: counterfoil %s\n\n%s\n", strings.TrimSpace(c.name+" "+c.args), strings.TrimSpace(c.help))
	any := false
	flags.VisitAll(func(*flag.Flag) { any = true })
	if any {
		fmt.Fprint(w, "\nFlags:\n")
		flags.SetOutput(w)
		flags.PrintDefaults()
	}
}
