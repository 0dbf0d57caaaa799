# bench/ipc.sh's plot. usage: gnuplot -e "dir='build-bench/ipc'" bench/ipc/plot.gp
set terminal svg size 1180,900 dynamic font "sans,11" background rgb "white"
set output dir."/ipc.svg"
set datafile separator "\t"
set datafile missing "nan"
set multiplot layout 2,2 title "sealane beside other ways between two processes of one host (medians)"
set logscale xy
set xtics ("64 B" 64, "1 KiB" 1024, "4 KiB" 4096, "64 KiB" 65536)
set xrange [48:90000]
set grid ytics lc rgb "#dddddd"
set key outside right top reverse Left samplen 2
set format y "%g"
do for [what in "rtt-spin rtt-block stream-spin stream-block"] {
	file = dir."/plot-".what.".tsv"
	stats file skip 1 nooutput
	n = STATS_columns
	group = system("head -1 ".file." | sed 's/size (\\([a-z]*\\)).*/\\1/'")
	set title (what[1:3] eq "rtt" ? "Round trip, p50, us" : "One way, million messages/s").(strstrt(what, "spin") ? ", spinning, CPUs " : ", blocking, CPUs ").group
	plot for [i=2:n] file using 1:i with linespoints lw (i == 2 ? 3 : 1.5) pt (i < 10 ? 7 : 5) ps 0.6 title columnheader(i)
}
unset multiplot
