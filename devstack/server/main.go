// Command devserver runs a Temporal server for development: all services in one process, on SQLite, with the Web UI.
//
// It takes the flags of `temporal server start-dev` that Holdfast uses, so that either program can stand in for the other.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"go.temporal.io/server/temporal"
)

const usage = `usage: devserver server start-dev [flags]
       devserver --version
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 1 && arguments[0] == "--version" {
		fmt.Println("holdfast devserver", serverVersion())
		return nil
	}
	if len(arguments) < 2 || arguments[0] != "server" || arguments[1] != "start-dev" {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("the only command is: server start-dev")
	}
	opts, err := parseOptions(arguments[2:])
	if err != nil {
		return err
	}
	if err := opts.checkPorts(); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	return serve(opts, stop)
}

// serve runs the server and its UI until a signal comes.
func serve(opts *options, stop <-chan os.Signal) error {
	server, err := buildServer(opts)
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("the server did not start: %w", err)
	}
	ui := buildUI(opts)
	failed := make(chan error, 1)
	if ui != nil {
		go func() { failed <- ui.Start() }()
	}
	announce(opts)
	select {
	case <-stop:
	case err = <-failed:
		err = fmt.Errorf("the Web UI did not start: %w", err)
	}
	if ui != nil {
		ui.Stop()
	}
	return errors.Join(err, stopServer(server))
}

func stopServer(server temporal.Server) error {
	if err := server.Stop(); err != nil {
		return fmt.Errorf("the server did not stop cleanly: %w", err)
	}
	return nil
}

func announce(opts *options) {
	fmt.Printf("%-21s %s:%d\n", "Temporal Server:", opts.ip, opts.port)
	persistence := opts.dbFilename
	if persistence == "" {
		persistence = "in-memory"
	}
	fmt.Printf("%-21s %s\n", "Temporal Persistence:", persistence)
	if !opts.headless {
		fmt.Printf("%-21s http://%s:%d\n", "Temporal UI:", opts.uiIP, opts.uiPort)
	}
}

// serverVersion is the version of the Temporal server module that this program was built with.
func serverVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "go.temporal.io/server" {
				return module.Version
			}
		}
	}
	return "(unknown)"
}
