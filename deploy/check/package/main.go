// Command package makes a chart's package by helm's own code, as `helm package` does: `package CHART FOLDER`.
package main

import (
	"fmt"
	"os"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: package CHART FOLDER")
		os.Exit(2)
	}
	loaded, err := loader.LoadDir(os.Args[1])
	if err == nil {
		err = loaded.Validate()
	}
	if err == nil {
		_, err = chartutil.Save(loaded, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
